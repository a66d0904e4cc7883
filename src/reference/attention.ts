/** The paged cache and attention over it. */

import { bug } from "../diagnostics.js";
import { columns, dot, rope } from "./arithmetic.js";
import type { KvStore } from "./kv.js";
import type { Meanings } from "./meaning.js";
import { matrix, type RefTensor, refTensor, row } from "./tensor.js";

function append(cache: KvStore, k: RefTensor, v: RefTensor, slots: RefTensor): void {
  const [rows] = matrix(k);
  for (let r = 0; r < rows; r++) cache.put(slots.data[r] as number, row(k, r), row(v, r));
}

export const attentionMeanings: Meanings<"kv_append" | "attention" | "rope_kv_append"> = {
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
    const [rows, width] = matrix(q);
    const [sequences, stride] = matrix(block_table);
    const { headDim } = cache;
    const out = new Float64Array(rows * width);
    for (let s = 0; s < sequences; s++) {
      const [start, end] = [query_start.data[s] as number, query_start.data[s + 1] as number];
      const total = context.data[s] as number;
      const entries = Array.from({ length: total }, (_, i) => {
        if (Math.floor(i / blockSize) >= stride) throw bug(`sequence ${s} has ${total} entries, its block table ${stride} blocks`);
        const block = block_table.data[s * stride + Math.floor(i / blockSize)] as number;
        return cache.get(block * blockSize + (i % blockSize));
      });
      for (let r = start; r < end; r++) {
        const seen = total - (end - start) + (r - start) + 1;
        for (let head = 0; head < heads; head++) {
          const at = r * width + head * headDim;
          const kvAt = Math.floor(head / (heads / cache.heads)) * headDim;
          const query = q.data.subarray(at, at + headDim);
          const scores = Float64Array.from(
            { length: seen },
            (_, i) => dot(query, (entries[i] as (typeof entries)[0]).k.subarray(kvAt, kvAt + headDim)) * scale,
          );
          const top = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
          const powers = scores.map((score) => Math.exp(score - top));
          const sum = powers.reduce((a, b) => a + b, 0);
          for (let i = 0; i < seen; i++) {
            const { v } = entries[i] as (typeof entries)[0];
            const weight = (powers[i] as number) / sum;
            for (let d = 0; d < headDim; d++) out[at + d] = (out[at + d] as number) + weight * (v[kvAt + d] as number);
          }
        }
      }
    }
    return [refTensor(dtype, q.shape, out)];
  },
};
