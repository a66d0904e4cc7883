/**
 * How each weight of the graph is made from tensors of the checkpoint, as an expression, and the nodes that say so. The form is always the same, from
 * the inside out: a tensor, transposed or not, some of its rows or all, then stacked with its like or not. The plan of the packed file reads it back.
 */

import { bug } from "../diagnostics.js";
import type { Builder, Value } from "../ir/graph.js";
import { type DType, tensor } from "../ir/types.js";
import type { ModelConfig } from "./config.js";
import { listWeights, type WeightSpec } from "./weights.js";

export type WeightExpr =
  /** `shape` may leave out axes of size 1 that the stored tensor has: router biases are stored as [1, E]. */
  | { readonly kind: "tensor"; readonly name: string; readonly shape: readonly number[] }
  | { readonly kind: "transpose"; readonly of: WeightExpr }
  | { readonly kind: "rows"; readonly of: WeightExpr; readonly start: number; readonly length: number }
  | { readonly kind: "stack"; readonly parts: readonly WeightExpr[] };

export interface ResolvedWeight {
  readonly spec: WeightSpec;
  /** Shared by identity where two weights come from one tensor. */
  readonly expr: WeightExpr;
}

/** All weights of a model, by canonical name. */
export interface WeightSet {
  /** The head is the embedding. */
  readonly tied: boolean;
  readonly weights: ReadonlyMap<string, ResolvedWeight>;
}

/** Weights of a config without a checkpoint: each is one tensor under its canonical name. */
export function declareWeights(config: ModelConfig): WeightSet {
  const weights = listWeights(config).map((spec): [string, ResolvedWeight] => [spec.name, { spec, expr: canonicalExpr(spec) }]);
  return { tied: config.tied, weights: new Map(weights) };
}

function canonicalExpr({ name, shape }: WeightSpec): WeightExpr {
  if (!name.includes("*")) return { kind: "tensor", name, shape };
  const parts = expertNames(name, shape[0] as number).map((part): WeightExpr => ({ kind: "tensor", name: part, shape: shape.slice(1) }));
  return { kind: "stack", parts };
}

export function expertNames(pattern: string, experts: number): string[] {
  return Array.from({ length: experts }, (_, e) => pattern.replace("*", String(e)));
}

/** Puts weights into a graph as they are asked for, each once. */
export class WeightEmitter {
  readonly #values = new Map<WeightExpr, Value>();

  constructor(
    readonly builder: Builder,
    readonly set: WeightSet,
  ) {}

  has(name: string): boolean {
    return this.set.weights.has(name);
  }

  get(name: string): Value {
    const weight = this.set.weights.get(name);
    if (!weight) throw bug(`no weight ${name}`);
    return this.#emit(weight.expr, weight.spec.dtype);
  }

  /** The bias of a linear layer that may lack one. */
  maybe(name: string): Value | undefined {
    return this.has(name) ? this.get(name) : undefined;
  }

  #emit(expr: WeightExpr, dtype: DType): Value {
    const made = this.#values.get(expr);
    if (made) return made;
    const value = this.#make(expr, dtype);
    this.#values.set(expr, value);
    return value;
  }

  #make(expr: WeightExpr, dtype: DType): Value {
    if (expr.kind === "tensor") return this.builder.weight(expr.name, tensor(dtype, expr.shape));
    if (expr.kind === "stack") {
      const parts = expr.parts.map((part) => this.#emit(part, dtype));
      return this.builder.value("stack", { parts }, {});
    }
    const x = this.#emit(expr.of, dtype);
    if (expr.kind === "transpose") return this.builder.value("transpose", { x }, {});
    return this.builder.value("slice_rows", { x }, { start: expr.start, length: expr.length });
  }
}
