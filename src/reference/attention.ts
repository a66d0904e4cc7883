/** The paged cache and attention over it. */

import { bug } from "../diagnostics.js";
import { columns, dot, product, rope, ropeTurns, turnBy } from "./arithmetic.js";
import type { KvEntry, KvStore } from "./kv.js";
import type { Meanings } from "./meaning.js";
import { floats, matrix, type RefTensor, refTensor, row } from "./tensor.js";

/** Where `rope_turns` has what pair p turns by: of the pairs 16r + 8h + 4i + j of a head the i change places with the j. */
function turnPlace(pair: number): number {
  return Math.floor(pair / 8) * 8 + (pair % 4) * 2 + Math.floor((pair % 8) / 4);
}

/** Pairs of numbers, those of each row where `place` says, or back. */
function placePairs(turns: ArrayLike<number>, width: number, back = false): Float64Array {
  const out = new Float64Array(turns.length);
  for (let at = 0; at < turns.length; at += 2) {
    const start = at - (at % width);
    const to = start + 2 * turnPlace((at % width) / 2);
    for (const i of [0, 1]) out[(back ? at : to) + i] = turns[(back ? to : at) + i] as number;
  }
  return out;
}

function append(cache: KvStore, k: RefTensor, v: RefTensor, slots: RefTensor): void {
  const [rows] = matrix(k);
  for (let r = 0; r < rows; r++) cache.put(slots.data[r] as number, row(k, r), row(v, r));
}

const meanings: Meanings<"kv_append" | "attention" | "rope_kv_append"> = {
  kv_append: ({ cache, k, v, slots }) => {
    append(cache, k, v, slots);
    return [cache];
  },

  rope_kv_append: ({ qkv, positions, slots, cache }, { heads, theta, sections, dtype }) => {
    const { headDim } = cache;
    const kv = cache.heads * headDim;
    const turn = (x: RefTensor, n: number) => rope(x, positions, { heads: n, head_dim: headDim, theta, sections, dtype });
    const q = turn(columns(qkv, 0, heads * headDim), heads);
    const k = turn(columns(qkv, heads * headDim, kv), cache.heads);
    append(cache, k, columns(qkv, heads * headDim + kv, kv), slots);
    return [q, cache];
  },

  attention: ({ q, cache, query_start, context, block_table }, { heads, scale, dtype }, { blockSize }) => {
    const [, width] = matrix(q);
    const queries = floats(q);
    const out = new Float64Array(queries.length);
    for (const [s, total] of context.data.entries()) {
      const [start, end] = [query_start.data[s] as number, query_start.data[s + 1] as number];
      const entries = entriesOf(cache, block_table, s, total, blockSize);
      for (let r = start; r < end; r++) {
        const seen = entries.slice(0, total - (end - start) + (r - start) + 1);
        for (let head = 0; head < heads; head++) {
          const kvHead = Math.floor(head / (heads / cache.heads));
          attend(queries, r * width + head * cache.headDim, seen, kvHead * cache.headDim, cache.headDim, scale, out);
        }
      }
    }
    return [refTensor(dtype, q.shape, out)];
  },
};

export const attentionMeanings: Meanings<
  "kv_append" | "attention" | "rope_kv_append" | "rope_attention" | "rope_turns" | "qkv_rope_append"
> = {
  ...meanings,

  rope_turns: ({ positions }, attrs) => [
    refTensor("f32", [matrix(positions)[0], attrs.head_dim], placePairs(ropeTurns(positions, attrs), attrs.head_dim)),
  ],

  qkv_rope_append: ({ x, weight, bias, turns, slots, cache }, { heads, dtype }) => {
    const { headDim: head_dim } = cache;
    const [q, kv] = [heads * head_dim, cache.heads * head_dim];
    const qkv = refTensor("f32", [matrix(x)[0], q + 2 * kv], product(x, weight, bias));
    const inOrder = placePairs(turns.data as ArrayLike<number>, head_dim, true);
    const turn = (start: number, n: number) => turnBy(columns(qkv, start, n * head_dim), inOrder, { heads: n, head_dim, dtype });
    append(cache, turn(q, cache.heads), columns(qkv, q + kv, kv), slots);
    return [turn(0, heads), cache];
  },

  rope_attention: (operands, attrs, environment, types) => {
    const { qkv, positions, slots, cache, query_start, context, block_table } = operands;
    const [q, kept] = meanings.rope_kv_append({ qkv, positions, slots, cache }, attrs, environment, types);
    const [out] = meanings.attention({ q: q as RefTensor, cache, query_start, context, block_table }, attrs, environment, types);
    return [out as RefTensor, kept as KvStore];
  },
};

/** All entries of a sequence, in order, through its row of the block table. */
function entriesOf(cache: KvStore, table: RefTensor, sequence: number, total: number, blockSize: number): readonly KvEntry[] {
  const [, stride] = matrix(table);
  if (total > stride * blockSize) throw bug(`sequence ${sequence} has ${total} entries, its block table ${stride} blocks`);
  return Array.from({ length: total }, (_, i) => {
    const block = table.data[sequence * stride + Math.floor(i / blockSize)] as number;
    return cache.get(block * blockSize + (i % blockSize));
  });
}

/** One query head over the entries that it sees: `at` is its place in `queries` and `out`, `kvAt` that of its kv head in an entry. */
function attend(
  queries: Float32Array,
  at: number,
  seen: readonly KvEntry[],
  kvAt: number,
  headDim: number,
  scale: number,
  out: Float64Array,
): void {
  const scores = seen.map(({ k }) => dot(queries, at, k, kvAt, headDim) * scale);
  const top = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const powers = scores.map((score) => Math.exp(score - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  for (const [i, { v }] of seen.entries()) {
    const weight = (powers[i] as number) / sum;
    for (let d = 0; d < headDim; d++) out[at + d] = (out[at + d] as number) + weight * (v[kvAt + d] as number);
  }
}
