/**
 * The weights that a model has: name, shape and element type of each, from its config alone. Names are those of the `-PT` checkpoints. Which tensors of
 * a given checkpoint hold them is in spellings.ts and resolve-weights.ts.
 *
 * Shapes are as the graph wants them: matrices [out, in], the experts of a layer stacked [experts, out, in].
 */

import type { DType } from "../ir/types.js";
import type { ModelConfig } from "./config.js";

/** What a weight is to the model; decides how it is counted, which element types it may have in a checkpoint and how it may be spelled there. */
export type WeightPart = "embedding" | "attention" | "dense_ffn" | "experts" | "shared_experts" | "router" | "norm" | "head";

export interface WeightSpec {
  /** Canonical name; for stacked experts with `*` in place of the expert's number. */
  readonly name: string;
  readonly shape: readonly number[];
  /**
   * Element type in the graph, whatever the checkpoint has: the packer converts. bf16, but for the router, which runs in f32 and whose choice
   * between close experts would flip.
   */
  readonly dtype: DType;
  readonly part: WeightPart;
}

/** All weights, in the order in which the graph uses them. `tied`: the head is the embedding. */
export function listWeights(config: ModelConfig, tied: boolean = config.tied): readonly WeightSpec[] {
  const { hiddenSize: h, vocabSize } = config;
  const list: WeightSpec[] = [spec("model.embed_tokens.weight", [vocabSize, h], "embedding")];
  for (let layer = 0; layer < config.layers; layer++) list.push(...layerWeights(config, layer));
  list.push(spec("model.norm.weight", [h], "norm"));
  if (!tied) list.push(spec("lm_head.weight", [vocabSize, h], "head"));
  if (config.headBias) list.push(spec("lm_head.bias", [vocabSize], "head"));
  return list;
}

function layerWeights(config: ModelConfig, layer: number): WeightSpec[] {
  const { hiddenSize: h, heads, kvHeads, headDim, useBias, moe } = config;
  const prefix = layerPrefix(layer);
  const linear = (name: string, out: number, width: number, part: WeightPart): WeightSpec[] => [
    spec(`${prefix}${name}.weight`, [out, width], part),
    ...(useBias ? [spec(`${prefix}${name}.bias`, [out], part)] : []),
  ];
  const mlp = (name: string, width: number, part: WeightPart): WeightSpec[] => [
    ...linear(`${name}.gate_proj`, width, h, part),
    ...linear(`${name}.up_proj`, width, h, part),
    ...linear(`${name}.down_proj`, h, width, part),
  ];
  const attention = [
    spec(`${prefix}input_layernorm.weight`, [h], "norm"),
    ...linear("self_attn.q_proj", heads * headDim, h, "attention"),
    ...linear("self_attn.k_proj", kvHeads * headDim, h, "attention"),
    ...linear("self_attn.v_proj", kvHeads * headDim, h, "attention"),
    ...linear("self_attn.o_proj", h, heads * headDim, "attention"),
    spec(`${prefix}post_attention_layernorm.weight`, [h], "norm"),
  ];
  if (!moe?.layers[layer]) return [...attention, ...mlp("mlp", config.intermediateSize, "dense_ffn")];
  const { experts, intermediateSize: m, sharedExperts } = moe;
  return [
    ...attention,
    spec(`${prefix}mlp.gate.weight`, [experts, h], "router", "f32"),
    ...(moe.correction ? [spec(`${prefix}mlp.moe_statics.e_score_correction_bias`, [experts], "router", "f32")] : []),
    spec(`${prefix}mlp.experts.*.gate_proj.weight`, [experts, m, h], "experts"),
    spec(`${prefix}mlp.experts.*.up_proj.weight`, [experts, m, h], "experts"),
    spec(`${prefix}mlp.experts.*.down_proj.weight`, [experts, h, m], "experts"),
    ...(sharedExperts > 0 ? mlp("mlp.shared_experts", sharedExperts * m, "shared_experts") : []),
  ];
}

export function layerPrefix(layer: number): string {
  return `model.layers.${layer}.`;
}

function spec(name: string, shape: readonly number[], part: WeightPart, dtype: DType = "bf16"): WeightSpec {
  return Object.freeze({ name, shape: Object.freeze([...shape]), dtype, part });
}

export function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}
