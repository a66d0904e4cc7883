/** Counting without weights: parameters, memory by part, KV cache, and what fits in a given memory. */

import { DTYPES, type DType } from "../ir/types.js";
import type { ModelConfig } from "./config.js";
import { elements, listWeights, type WeightPart } from "./weights.js";

export interface PartCount {
  readonly part: WeightPart;
  readonly parameters: number;
  /** In the graph's element types: bf16, the router f32. */
  readonly bytes: number;
}

export interface ModelCount {
  readonly parameters: number;
  /** Used for one token: of the experts only the chosen ones, and the whole embedding or head table. */
  readonly activeParameters: number;
  readonly bytes: number;
  readonly parts: readonly PartCount[];
}

export function countParameters(config: ModelConfig, tied?: boolean): number {
  return listWeights(config, tied).reduce((sum, { shape }) => sum + elements(shape), 0);
}

export function countModel(config: ModelConfig, tied?: boolean): ModelCount {
  const parts = new Map<WeightPart, PartCount>();
  for (const { part, shape, dtype } of listWeights(config, tied)) {
    const { parameters, bytes } = parts.get(part) ?? { parameters: 0, bytes: 0 };
    const count = elements(shape);
    parts.set(part, { part, parameters: parameters + count, bytes: bytes + count * DTYPES[dtype].bytes });
  }
  const list = [...parts.values()];
  const parameters = list.reduce((sum, part) => sum + part.parameters, 0);
  const experts = parts.get("experts")?.parameters ?? 0;
  const share = config.moe ? config.moe.k / config.moe.experts : 1;
  return {
    parameters,
    activeParameters: parameters - experts + experts * share,
    bytes: list.reduce((sum, part) => sum + part.bytes, 0),
    parts: list,
  };
}

/** Multiplications and additions of the matrix products for one token of a prompt: all but attention, and but the head, which only the last token has. */
export function promptOperations({ activeParameters, parts }: ModelCount): number {
  const tables = parts.filter(({ part }) => part === "embedding" || part === "head");
  return 2 * (activeParameters - tables.reduce((sum, { parameters }) => sum + parameters, 0));
}

/** Keys and values of one token in all layers. */
export function kvBytesPerToken(config: ModelConfig, dtype: DType = "bf16"): number {
  return 2 * config.layers * config.kvHeads * config.headDim * DTYPES[dtype].bytes;
}

/** Tokens that the KV cache can hold for all sequences together in `memory` bytes, beside the weights and `reserve` bytes; 0 if the weights don't fit. */
export function tokensThatFit(config: ModelConfig, memory: number, { dtype = "bf16", reserve = 0, tied }: FitOptions = {}): number {
  const left = memory - reserve - countModel(config, tied).bytes;
  return Math.max(0, Math.floor(left / kvBytesPerToken(config, dtype)));
}

export interface FitOptions {
  /** Of keys and values: that of the activations. */
  readonly dtype?: DType;
  readonly reserve?: number;
  readonly tied?: boolean;
}
