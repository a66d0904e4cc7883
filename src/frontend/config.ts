/**
 * config.json -> ModelConfig: every spelling that the family's files have, checked and brought into one frozen form. What the fields mean for the
 * computation is in model.ts, for tensor names in weights.ts. Keys that are not read here are tolerated: such files hold many.
 *
 * Defaults. Hugging Face's classes and the original ones disagree on some fields (rope_theta 500000 or 10000, moe_layer_interval 1 or 2, ...), and a
 * wrong guess gives a wrong model without any error. So: sizes are always required; where the two agree that default is taken; where they don't, the
 * file's style decides: Hugging Face's default for a file that transformers wrote, a refusal for one in the original style (see `fileStyle`).
 */

import { Diagnostic } from "../diagnostics.js";
import { detectKind, type ModelKind } from "./config-kind.js";
import { type MoeConfig, readMoe } from "./config-moe.js";
import { disputed, type FileStyle, fileStyle } from "./config-style.js";
import { countParameters } from "./count.js";
import { Fields } from "./fields.js";
import { type JsonObject, readJsonObject } from "./json.js";

export type CheckpointDType = "bfloat16" | "float16" | "float32";
export interface ModelConfig {
  readonly kind: ModelKind;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  /** Width of the FFN of dense layers. */
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly maxPositions: number;
  readonly normEps: number;
  readonly ropeTheta: number;
  /** Biases on q, k, v, o and the dense and shared MLPs; never on experts, routers and the head. */
  readonly useBias: boolean;
  readonly headBias: boolean;
  /** What the file says; where there is a checkpoint, its tensors decide. */
  readonly tied: boolean;
  readonly moe: MoeConfig | null;
  /** Depth of multi-token prediction; its tensors are optional and not used yet. */
  readonly mtpDepth: number;
  readonly bosId: number | null;
  readonly eosIds: readonly number[];
  readonly padId: number | null;
  readonly dtype: CheckpointDType | null;
  readonly style: FileStyle;
}

export interface ParsedConfig {
  readonly config: ModelConfig;
  readonly warnings: readonly Diagnostic[];
}

/** Limits keep products of sizes exact in a double and refuse nonsense; each is several times what the largest model of the family has. */
const LIMITS = {
  hidden: { min: 1, max: 2 ** 20 },
  layers: { min: 1, max: 1024 },
  heads: { min: 1, max: 4096 },
  headDim: { min: 2, max: 1024 },
  vocab: { min: 1, max: 2 ** 24 },
  /** Positions are multiplied as f32, which is exact to here. */
  positions: { min: 1, max: 2 ** 24 },
} as const;

/** Twenty times the largest model of the family. */
const MAX_PARAMETERS = 10 ** 13;

export async function readConfig(path: string): Promise<ParsedConfig> {
  return parseConfig(await readJsonObject(path), path);
}

export function parseConfig(object: JsonObject, place: string): ParsedConfig {
  const fields = new Fields(object, place);
  const kind = detectKind(fields);
  refuseUnsupported(fields);
  const style = fileStyle(fields);
  const warnings: Diagnostic[] = [];
  const hiddenSize = fields.requiredInt("hidden_size", LIMITS.hidden);
  const layers = fields.requiredInt("num_hidden_layers", LIMITS.layers);
  const vocabSize = fields.requiredInt("vocab_size", LIMITS.vocab);
  const useBias = fields.boolean("use_bias") ?? false;
  const ids = readTokenIds(fields, vocabSize);
  const config: ModelConfig = {
    kind,
    vocabSize,
    hiddenSize,
    intermediateSize: fields.requiredInt("intermediate_size", LIMITS.hidden),
    layers,
    ...readHeads(fields, hiddenSize),
    // 131072 in every release and in Hugging Face's classes; it bounds the context and changes no number.
    maxPositions: fields.int("max_position_embeddings", LIMITS.positions) ?? 131072,
    normEps: disputed(fields, style, "rms_norm_eps", fields.number("rms_norm_eps", { min: 0, max: 1, open: true }), 1e-5, 1e-6),
    ropeTheta: readRopeTheta(fields, style),
    useBias,
    // Only the original classes know this key, and only both together give the head a bias.
    headBias: useBias && fields.boolean("weight_share_add_bias") === true,
    tied: readTied(fields, style, warnings),
    moe: kind === "moe" ? readMoe(fields, style, layers) : null,
    mtpDepth: fields.int("num_nextn_predict_layers", { min: 0, max: 16 }) ?? 0,
    ...ids,
    dtype: readDType(fields),
    style,
  };
  const parameters = countParameters(config);
  if (parameters > MAX_PARAMETERS) {
    throw new Diagnostic({
      code: "config-too-large",
      message: `found sizes that make ${parameters} parameters, expected at most ${MAX_PARAMETERS}`,
      place,
      hint: "take the config.json that came with the weights",
    });
  }
  warnings.push(...pretrainingWarnings(fields));
  return Object.freeze({ config: freeze(config), warnings: Object.freeze(warnings) });
}

function freeze(config: ModelConfig): ModelConfig {
  Object.freeze(config.eosIds);
  if (config.moe) Object.freeze(Object.freeze(config.moe).layers);
  return Object.freeze(config);
}

function readHeads(fields: Fields, hiddenSize: number): Pick<ModelConfig, "heads" | "kvHeads" | "headDim"> {
  const heads = fields.requiredInt("num_attention_heads", LIMITS.heads);
  const kvHeads = fields.requiredInt(
    "num_key_value_heads",
    LIMITS.heads,
    `add "num_key_value_heads": ${heads} if every head has its own keys and values`,
  );
  if (heads % kvHeads !== 0) {
    throw fields.refuse("config-not-dividing", "num_key_value_heads", `a divisor of num_attention_heads, which is ${heads}`);
  }
  const stated = fields.int("head_dim", LIMITS.headDim);
  if (stated === undefined && hiddenSize % heads !== 0) {
    throw fields.missing("head_dim", `it, since num_attention_heads = ${heads} does not divide hidden_size = ${hiddenSize}`);
  }
  const headDim = stated ?? hiddenSize / heads;
  if (headDim % 2 !== 0 || headDim > LIMITS.headDim.max) {
    const derived = stated === undefined ? ` (from hidden_size / num_attention_heads)` : "";
    throw new Diagnostic({
      code: "config-not-dividing",
      message: `found ${headDim}${derived}, expected an even number up to ${LIMITS.headDim.max}: RoPE rotates pairs`,
      place: fields.at("head_dim"),
      hint: "take the config.json that came with the weights",
    });
  }
  return { heads, kvHeads, headDim };
}

/** `rope_theta`, or transformers 5's `rope_parameters`; both may stand in one file if they agree. */
function readRopeTheta(fields: Fields, style: FileStyle): number {
  const range = { min: 1, max: 1e12, open: true };
  const parameters = fields.nested("rope_parameters");
  const old = fields.number("rope_theta", range);
  const current = parameters?.number("rope_theta", range);
  if (old !== undefined && current !== undefined && old !== current) {
    throw fields.refuse("config-rope-conflict", "rope_theta", `${current}, as rope_parameters.rope_theta says`);
  }
  return disputed(fields, style, "rope_theta", current ?? old, 500000, 10000);
}

/** transformers leaves the flag out when it is true, the original classes when it is false. */
function readTied(fields: Fields, style: FileStyle, warnings: Diagnostic[]): boolean {
  const stated = fields.boolean("tie_word_embeddings");
  if (stated !== undefined) return stated;
  const tied = style !== "paddle";
  if (style === "paddle") {
    warnings.push(
      new Diagnostic({
        code: "config-assumed",
        message: "found no tie_word_embeddings, taken as false, as the original classes do",
        place: fields.at("tie_word_embeddings"),
        hint: "the weights decide where there are some",
      }),
    );
  }
  return tied;
}

function readTokenIds(fields: Fields, vocabSize: number): Pick<ModelConfig, "bosId" | "eosIds" | "padId"> {
  const range = { min: 0, max: vocabSize - 1 };
  const pad = fields.get("pad_token_id") === -1 ? null : (fields.int("pad_token_id", range) ?? null);
  return { bosId: fields.int("bos_token_id", range) ?? null, eosIds: fields.ints("eos_token_id", range) ?? [], padId: pad };
}

function readDType(fields: Fields): CheckpointDType | null {
  for (const key of ["torch_dtype", "dtype"]) {
    const value = fields.text(key)?.replace(/^(torch|paddle)\./, "");
    if (value === "bfloat16" || value === "float16" || value === "float32") return value;
  }
  return null;
}

/** Fields that would change the computation in ways that no release of the family uses. */
function refuseUnsupported(fields: Fields): void {
  const refuse = (
    key: string,
    expected: string,
    hint = "no release of the family has it: take the config.json that came with the weights",
  ): void => {
    const { message, place } = { message: fields.refuse("", key, expected).summary, place: fields.at(key) };
    throw new Diagnostic({ code: "config-unsupported", kind: "unsupported", message, place, hint });
  };
  if (fields.has("quantization_config")) refuse("quantization_config", "none", "start from the bf16 weights");
  if ((fields.text("hidden_act") ?? "silu") !== "silu") refuse("hidden_act", "silu");
  if ((fields.number("compression_ratio", { min: 0, max: 1e6 }) ?? 1) !== 1) refuse("compression_ratio", "1");
  if ((fields.number("scale_qk_coeff", { min: 0, max: 1e6 }) ?? 1) !== 1) refuse("scale_qk_coeff", "1");
  if (fields.boolean("use_rmsnorm") === false) refuse("use_rmsnorm", "true");
  if (fields.boolean("use_qk_norm") === true) refuse("use_qk_norm", "false");
  if (fields.has("sliding_window") && fields.boolean("use_sliding_window") !== false) refuse("sliding_window", "none");
  for (const key of ["rope_scaling", "rope_parameters"]) {
    const rope = fields.nested(key);
    const type = rope?.text("rope_type") ?? rope?.text("type") ?? (key === "rope_scaling" && rope ? "unnamed" : "default");
    if (rope && type !== "default") refuse(key, "none, or one of type default");
    if (rope?.has("mrope_section")) refuse(key, "no mrope_section, which vision-language models have");
    if ((rope?.number("partial_rotary_factor", { min: 0, max: 1 }) ?? 1) !== 1) refuse(key, "partial_rotary_factor 1");
  }
}

/** The pretraining recipes' files hold values that no released checkpoint was trained to the end with. */
function pretrainingWarnings(fields: Fields): Diagnostic[] {
  const signs = [
    fields.get("bos_token_id") === 0 && fields.get("eos_token_id") === 1 ? "bos 0 and eos 1" : "",
    fields.get("pad_token_id") === -1 ? "pad -1" : "",
    fields.get("rope_theta") === 10000 ? "rope_theta 10000" : "",
    fields.has("num_empty_layers_add_in_tail") ? "num_empty_layers_add_in_tail" : "",
  ].filter((sign) => sign !== "");
  if (signs.length === 0) return [];
  return [
    new Diagnostic({
      code: "config-pretraining",
      message: `found ${signs.join(", ")}, as the pretraining recipes have; released models have bos 1, eos 2, pad 0 and rope_theta 500000`,
      place: fields.place,
      hint: "take the config.json that came with the weights",
    }),
  ];
}
