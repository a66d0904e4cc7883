/** What the blocks of a program share: the builder, the step's inputs, and the few operations that every block uses. */

import type { Builder, Origin, Value } from "../ir/graph.js";
import type { DType } from "../ir/types.js";
import type { ModelConfig } from "./config.js";
import type { WeightEmitter } from "./weight-set.js";
import { layerPrefix } from "./weights.js";

export interface Context {
  readonly b: Builder;
  readonly config: ModelConfig;
  readonly weights: WeightEmitter;
  /** What matmuls read. */
  readonly act: DType;
  /** What q, k and v read. */
  readonly attentionInput: DType;
  readonly positions: Value;
  readonly slots: Value;
  readonly queryStart: Value;
  readonly contextLengths: Value;
  readonly blockTable: Value;
  /** Hands a value to the caller of a trace; does nothing in the other programs. */
  readonly trace: (name: string, value: Value) => void;
}

/** An f32 value as matmuls read it. */
export function rounded(b: Builder, x: Value, dtype: DType): Value {
  return dtype === "f32" ? x : b.value("cast", { x }, { dtype });
}

/** x . W^T + bias in f32; `name` is that of the layer, as `model.layers.3.mlp.down_proj`. */
export function linear({ b, weights }: Context, name: string, x: Value): Value {
  const weight = weights.get(`${name}.weight`);
  const bias = weights.maybe(`${name}.bias`);
  return b.at(fromWeight(`${name}.weight`)).value("linear", bias ? { x, weight, bias } : { x, weight }, { dtype: "f32" });
}

export function fromWeight(name: string): Origin {
  return { kind: "weight", name };
}

export function fromConfig(key: string, layer?: number): Origin {
  return { kind: "config", key: layer === undefined ? key : `${layerPrefix(layer)}${key}` };
}
