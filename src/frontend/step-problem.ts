/**
 * What choices above a kernel (src/kernels/steps.ts) are about: the sizes of a model that decide how long its steps take. A model of the same sizes has the same
 * problem, whatever it is called; and a problem is a model again, which is what gets measured.
 */

import { Diagnostic } from "../diagnostics.js";
import type { KernelParams } from "../kernels/kernel-def.js";
import { type ModelConfig, parseConfig } from "./config.js";
import type { JsonObject } from "./json.js";

export function stepProblem(config: ModelConfig, activations: "bf16" | "f32"): KernelParams {
  const { moe, layers } = config;
  const dense = moe ? moe.layers.filter((sparse) => !sparse).length : 0;
  return {
    layers,
    hidden: config.hiddenSize,
    heads: config.heads,
    kv_heads: config.kvHeads,
    head_dim: config.headDim,
    ffn: config.intermediateSize,
    vocab: config.vocabSize,
    x: activations,
    ...(config.tied ? { tied: true } : {}),
    ...(config.useBias ? { bias: true } : {}),
    ...(moe ? { experts: moe.experts, chosen: moe.k, expert_ffn: moe.intermediateSize } : {}),
    ...(moe && moe.sharedExperts > 0 ? { shared_experts: moe.sharedExperts } : {}),
    ...(dense > 0 ? { dense_layers: dense } : {}),
  };
}

/** A config.json of that problem; dense layers come first, as in all releases. `layers`: fewer than the problem has, where not all fit. */
export function stepConfig(problem: KernelParams, layers = Number(problem.layers)): JsonObject {
  const { experts, dense_layers: dense = 0 } = problem;
  const common = {
    hidden_size: number(problem.hidden),
    intermediate_size: number(problem.ffn),
    num_hidden_layers: layers,
    num_attention_heads: number(problem.heads),
    num_key_value_heads: number(problem.kv_heads),
    head_dim: number(problem.head_dim),
    vocab_size: number(problem.vocab),
    max_position_embeddings: 131072,
    hidden_act: "silu",
    rms_norm_eps: 1e-5,
    rope_theta: 500000,
    use_bias: problem.bias === true,
    tie_word_embeddings: problem.tied === true,
    // No token ends what is measured.
    bos_token_id: 1,
    eos_token_id: 2,
    pad_token_id: 0,
    torch_dtype: "bfloat16",
  };
  if (experts === undefined) return { ...common, architectures: ["Ernie4_5ForCausalLM"], model_type: "ernie4_5" };
  return {
    ...common,
    architectures: ["Ernie4_5_MoeForCausalLM"],
    model_type: "ernie4_5_moe",
    moe_num_experts: number(experts),
    moe_k: number(problem.chosen),
    moe_intermediate_size: number(problem.expert_ffn),
    moe_num_shared_experts: number(problem.shared_experts ?? 0),
    moe_layer_start_index: number(dense),
    moe_layer_end_index: layers - 1,
    moe_layer_interval: 1,
    moe_gate_act: "softmax",
    moe_norm_gate_logits: true,
    moe_norm_min: 1e-12,
    moe_use_aux_free: true,
  };
}

/** Whether it is that of a model: what reads configs would take it, and finds the same problem in it. */
export function isStepProblem(problem: KernelParams): boolean {
  try {
    const { config } = parseConfig(stepConfig(problem), "problem");
    return Object.entries(stepProblem(config, problem.x === "f32" ? "f32" : "bf16")).every(([name, value]) => problem[name] === value);
  } catch (error) {
    if (error instanceof Diagnostic) return false;
    throw error;
  }
}

function number(value: unknown): number {
  return Number(value);
}
