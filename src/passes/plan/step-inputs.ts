/** What the runtime fills before each step, and where: the parameters of a program that are no KV cache, one after the other. */

import type { Param } from "../../ir/graph.js";
import { DTYPES, maxDim, type SymbolBounds, type TensorType } from "../../ir/types.js";

/** In the order of `Inputs` in runtime/src/plan.hpp. */
export const STEP_INPUTS = ["ids", "positions", "slots", "kinds", "query_start", "context", "block_table", "last_rows"] as const;
export type StepInput = (typeof STEP_INPUTS)[number];

export interface InputPlace {
  readonly name: string;
  readonly offset: number;
  readonly bytes: number;
}

/** A cache line: vector loads are aligned. */
const ALIGN = 64;

export function placeInputs(
  params: readonly Param[],
  bounds: SymbolBounds,
): { readonly places: readonly InputPlace[]; readonly bytes: number } {
  const places: InputPlace[] = [];
  let end = 0;
  for (const { name, value } of params) {
    if (value.type.kind === "kv") continue;
    const bytes = tensorBytes(value.type, bounds);
    places.push({ name, offset: end, bytes });
    end = Math.ceil((end + bytes) / ALIGN) * ALIGN;
  }
  return { places, bytes: end };
}

export function tensorBytes(type: TensorType, bounds: SymbolBounds): number {
  return type.shape.reduce<number>((product, dim) => product * maxDim(dim, bounds), DTYPES[type.dtype].bytes);
}
