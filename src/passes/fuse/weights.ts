/** What the fusions that join projections share: when weights and biases can be joined, and how. */

import type { NodeOf, Value } from "../../ir/graph.js";
import { rowAxis } from "../../ir/ops.js";
import type { Rebuild } from "../../ir/replace.js";
import { sameType, type TensorType } from "../../ir/types.js";

/** Whether weights can become one matrix: they differ in the number of rows at most. */
export function canJoinRows(weights: readonly Value[]): boolean {
  const types = weights.map(({ type }) => type).filter((type) => type.kind === "tensor");
  const [first] = types;
  if (!first || types.length !== weights.length || first.shard) return false;
  const withOneRow = (type: TensorType) => ({ ...type, shape: type.shape.map((dim, i) => (i === rowAxis(type) ? 1 : dim)) });
  return types.every((type) => sameType(withOneRow(type), withOneRow(first)));
}

/** Whether biases can be joined as the weights are: all linears have one, of one dtype, or none has. */
export function canJoinBiases(linears: readonly NodeOf<"linear">[]): boolean {
  const biases = biasesOf(linears);
  return biases.length === 0 || (biases.length === linears.length && canJoinRows(biases));
}

export function biasesOf(linears: readonly NodeOf<"linear">[]): readonly Value[] {
  return linears.flatMap(({ operands }) => operands.bias ?? []);
}

/**
 * Rows of gate and up are taken in turns of the largest of these that divides the width, so that a panel of 64 rows holds gate and up of the
 * same 32 (or 16, or 8) columns.
 */
const GROUPS = [32, 16, 8] as const;

export function swigluGroup(width: number): number | undefined {
  return GROUPS.find((group) => width % group === 0);
}

/** Rows of a matrix, or of each matrix of a stack; elements of a vector. */
export function rowCount(weight: Value): number {
  if (weight.type.kind !== "tensor") return 0;
  const rows = weight.type.shape[rowAxis(weight.type)];
  return typeof rows === "number" ? rows : 0;
}

export function interleave(build: Rebuild, a: Value, b: Value, group: number): Value {
  return build.value("interleave_rows", { a, b }, { group });
}
