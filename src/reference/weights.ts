/** Weight expressions: what the packed file holds, as it comes out of the checkpoint. */

import { bug } from "../diagnostics.js";
import type { Meanings } from "./meaning.js";
import { castTo, type RefTensor, sizeOf, zeros } from "./tensor.js";

/** A weight as matrices one after the other: a stack has several, a vector is a matrix one wide. */
function matrices({ shape }: RefTensor): { count: number; rows: number; width: number } {
  if (shape.length === 1) return { count: 1, rows: shape[0] ?? 0, width: 1 };
  return { count: sizeOf(shape.slice(0, -2)), rows: shape.at(-2) ?? 0, width: shape.at(-1) ?? 0 };
}

function withRows(x: RefTensor, rows: number): number[] {
  const axis = Math.max(0, x.shape.length - 2);
  return x.shape.map((size, i) => (i === axis ? rows : size));
}

/** A weight like the first source with these rows: row `row` of source `from`, in every matrix of the stack. */
function gatherRows(sources: readonly RefTensor[], rows: readonly { readonly from: number; readonly row: number }[]): RefTensor {
  const [first] = sources;
  if (!first) throw bug("no weights to join");
  const { count, width } = matrices(first);
  const out = zeros(first.dtype, withRows(first, rows.length));
  for (let m = 0; m < count; m++) {
    for (const [i, { from, row }] of rows.entries()) {
      const source = sources[from] as RefTensor;
      const start = (m * matrices(source).rows + row) * width;
      out.data.set(source.data.subarray(start, start + width), (m * rows.length + i) * width);
    }
  }
  return out;
}

function count(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}

export const weightMeanings: Meanings<"weight" | "concat_rows" | "slice_rows" | "transpose" | "stack" | "interleave_rows" | "pack"> = {
  weight: (_, { name }, { weights }, [type]) => {
    if (type?.kind !== "tensor") throw bug(`the weight ${JSON.stringify(name)} is no tensor`);
    return [weights(name, type)];
  },

  concat_rows: ({ parts }) => [
    gatherRows(
      parts,
      parts.flatMap((part, from) => count(matrices(part).rows).map((row) => ({ from, row }))),
    ),
  ],

  slice_rows: ({ x }, { start, length }) => [
    gatherRows(
      [x],
      count(length).map((i) => ({ from: 0, row: start + i })),
    ),
  ],

  interleave_rows: ({ a, b }, { group }) => {
    const turns = count(matrices(a).rows / group).flatMap((turn) =>
      [0, 1].flatMap((from) => count(group).map((i) => ({ from, row: turn * group + i }))),
    );
    return [gatherRows([a, b], turns)];
  },

  transpose: ({ x }) => {
    const { count: stacked, rows, width } = matrices(x);
    const out = zeros(x.dtype, [...x.shape.slice(0, -2), width, rows]);
    for (let m = 0; m < stacked; m++) {
      const base = m * rows * width;
      for (let r = 0; r < rows; r++) for (let c = 0; c < width; c++) out.data[base + c * rows + r] = x.data[base + r * width + c] as number;
    }
    return [out];
  },

  // A layout is a matter of addresses, which values here don't have.
  pack: ({ x }, { dtype }) => [castTo(dtype, x)],

  stack: ({ parts }) => {
    const [first] = parts;
    if (!first) throw bug("no weights to stack");
    const out = zeros(first.dtype, [parts.length, ...first.shape]);
    for (const [i, part] of parts.entries()) out.data.set(part.data, i * first.data.length);
    return [out];
  },
};
