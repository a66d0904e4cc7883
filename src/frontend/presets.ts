/**
 * Names that stand for the config of a released model, without weights: for `--dry-run`, `inspect` and synthetic weights. Sizes are those of the
 * published configs; head_dim of the larger two is not in their files and follows from their sizes.
 */

import { Diagnostic } from "../diagnostics.js";
import type { JsonObject } from "./json.js";
import { nearest } from "./nearest.js";

/** The same in all releases. */
const FAMILY = {
  hidden_act: "silu",
  vocab_size: 103424,
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  use_bias: false,
  bos_token_id: 1,
  eos_token_id: 2,
  pad_token_id: 0,
  torch_dtype: "bfloat16",
};

const MOE = {
  architectures: ["Ernie4_5_MoeForCausalLM"],
  model_type: "ernie4_5_moe",
  moe_num_experts: 64,
  moe_layer_interval: 1,
  moe_gate_act: "softmax",
  moe_norm_gate_logits: true,
  moe_norm_min: 1e-12,
  moe_use_aux_free: true,
};

const PRESETS = {
  "ernie-4.5-0.3b": {
    ...FAMILY,
    architectures: ["Ernie4_5ForCausalLM"],
    model_type: "ernie4_5",
    hidden_size: 1024,
    intermediate_size: 3072,
    num_hidden_layers: 18,
    num_attention_heads: 16,
    num_key_value_heads: 2,
    head_dim: 128,
    tie_word_embeddings: true,
  },
  "ernie-4.5-21b-a3b": {
    ...FAMILY,
    ...MOE,
    hidden_size: 2560,
    intermediate_size: 12288,
    num_hidden_layers: 28,
    num_attention_heads: 20,
    num_key_value_heads: 4,
    moe_k: 6,
    moe_intermediate_size: 1536,
    moe_num_shared_experts: 2,
    moe_layer_start_index: 1,
    moe_layer_end_index: 27,
    tie_word_embeddings: true,
    num_nextn_predict_layers: 1,
  },
  "ernie-4.5-300b-a47b": {
    ...FAMILY,
    ...MOE,
    hidden_size: 8192,
    intermediate_size: 28672,
    num_hidden_layers: 54,
    num_attention_heads: 64,
    num_key_value_heads: 8,
    moe_k: 8,
    moe_intermediate_size: 3584,
    moe_num_shared_experts: 0,
    moe_layer_start_index: 3,
    moe_layer_end_index: 53,
    // No published file was seen that says it; the training dump holds a head of its own. A checkpoint decides for itself.
    tie_word_embeddings: false,
    num_nextn_predict_layers: 1,
  },
} as const satisfies { readonly [name: string]: JsonObject };

export type PresetName = keyof typeof PRESETS;
export const PRESET_NAMES = Object.keys(PRESETS) as readonly PresetName[];

export function isPresetName(name: string): name is PresetName {
  return Object.hasOwn(PRESETS, name);
}

export function presetConfig(name: PresetName): JsonObject {
  return PRESETS[name];
}

/** What to say of an input that is neither a file, nor a folder, nor a preset. */
export function unknownInput(input: string, place = input): Diagnostic {
  const name = input.split("/").at(-1)?.toLowerCase() ?? "";
  const message = `found no file or folder ${JSON.stringify(input)} and no preset of that name`;
  const names = PRESET_NAMES.join(", ");
  if (/(^|-)vl(-|$)/.test(name)) {
    return new Diagnostic({
      code: "input-vl-unsupported",
      kind: "unsupported",
      message: `${message}; vision-language models can't be compiled`,
      place,
      hint: `presets: ${names}`,
    });
  }
  // The published names: with an owner, and with suffixes that say how a checkpoint was trained or stored, which a preset has no part in.
  const bare = name.replace(/(-(base|pt|paddle|thinking))+$/, "");
  const meant = isPresetName(bare) ? bare : nearest(bare, PRESET_NAMES);
  return new Diagnostic({
    code: "input-not-found",
    message,
    place,
    hint:
      meant === undefined
        ? `give a model folder, a config.json, a model.json or one of the presets ${names}`
        : `did you mean the preset ${meant}? It has no weights; to compile a checkpoint, give its folder`,
  });
}
