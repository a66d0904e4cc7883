/**
 * What a model sees of a configuration: each parameter's position, a column for each value of a categorical one;
 * and the products of pairs of sizes, since threads, tiles and registers are products. All as ranks below `RANKS`.
 */

import type { Parameter, Space } from "../space.js";

const RANKS = 64;
/** So that a space of very many parameters has no thousands of products. */
const MAX_PAIRS = 64;
const kept = new WeakMap<Space, readonly Uint8Array[]>();

/** Column f of all configurations at `[f]`; the same ones for the same space. */
export function featuresOf(space: Space): readonly Uint8Array[] {
  let columns = kept.get(space);
  if (!columns) {
    columns = makeColumns(space);
    kept.set(space, columns);
  }
  return columns;
}

function makeColumns(space: Space): Uint8Array[] {
  const columns: Uint8Array[] = [];
  const sizes: number[] = [];
  space.parameters.forEach((parameter, p) => {
    const { values, ordered } = parameter;
    if (values.length === 1) return;
    if (ordered) columns.push(rank(space, (i) => space.code(i, p)));
    else values.forEach((_, code) => columns.push(rank(space, (i) => (space.code(i, p) === code ? 1 : 0))));
    if (isSize(parameter)) sizes.push(p);
  });
  const pairs = sizes.flatMap((a, i) => sizes.slice(i + 1).map((b) => [a, b] as const)).slice(0, MAX_PAIRS);
  for (const [a, b] of pairs) columns.push(rank(space, (i) => sizeAt(space, i, a) * sizeAt(space, i, b)));
  // A space of one configuration, or none that varies: models still want a column.
  return columns.length > 0 ? columns : [new Uint8Array(space.size)];
}

/** Counts of something rather than switches. */
function isSize({ values }: Parameter): boolean {
  return values.length > 2 && values.every((value) => typeof value === "number" && value >= 0);
}

/** Zero (say, of an unroll factor that is left to the compiler) stands below one, not for no size at all. */
function sizeAt(space: Space, index: number, p: number): number {
  return Math.max(space.value(index, p) as number, 0.5);
}

/** Ranks among the distinct values, or among quantiles where there are more of them than ranks. */
function rank(space: Space, valueOf: (index: number) => number): Uint8Array {
  const values = Float64Array.from({ length: space.size }, (_, i) => valueOf(i));
  const distinct = [...new Set(values)].sort((a, b) => a - b);
  const borders =
    distinct.length <= RANKS
      ? distinct
      : [...new Set(Array.from({ length: RANKS }, (_, i) => distinct[Math.floor((i * distinct.length) / RANKS)] as number))];
  return Uint8Array.from(values, (value) => {
    let low = 0;
    let high = borders.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if ((borders[middle] as number) <= value) low = middle;
      else high = middle;
    }
    return low;
  });
}
