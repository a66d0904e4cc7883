/** Attention and what fills its cache: runtime/device/cpu/attention.hpp, rope_kv_append.hpp, rope.hpp, kv_append.hpp. */

import { type KvType, type TensorType } from "../ir/types.js";
import { cFloat, constType, cType, joinName } from "./common.js";
import {
  type AnyKernel,
  bytesOf,
  defineKernel,
  dtypeParam,
  type KernelParams,
  type KernelTarget,
  numberParam,
  rowsOf,
  tensorType,
} from "./kernel-def.js";
import type { View } from "./view.js";

/** Cache entries that one worker walks, and floats that head a partial result: `kv_chunk` and `partial_head` of attention.hpp, which the template compares. */
const KV_CHUNK = 512;
const PARTIAL_HEAD = 16;

/** Partial results of one long sequence that all threads share. */
function partialRows(params: KernelParams): number {
  return numberParam(params, "heads") * Math.ceil(numberParam(params, "max_context") / KV_CHUNK);
}

function partialBytes(params: KernelParams): number {
  return partialRows(params) * (PARTIAL_HEAD + numberParam(params, "head_dim")) * 4;
}

/** What the pool looks like to a kernel; the same in every kernel of a package. */
function cacheParams(cache: KvType, target: KernelTarget): KernelParams {
  return {
    kv: cache.dtype,
    kv_heads: cache.heads,
    head_dim: cache.headDim,
    block_size: target.kvBlockSize,
    kv_block_bytes: target.kvBlockBytes,
  };
}

function cacheView(params: KernelParams): View {
  return {
    kv: params.kv as string,
    kv_heads: numberParam(params, "kv_heads"),
    head_dim: numberParam(params, "head_dim"),
    block_size: numberParam(params, "block_size"),
    kv_block_bytes: numberParam(params, "kv_block_bytes"),
  };
}

function isFloat(dtype: TensorType["dtype"]): boolean {
  return dtype === "f32" || dtype === "bf16";
}

const attention = defineKernel({
  op: "attention",
  name: "attention",
  order: "fixed-tiles",
  fit: (node, target) => {
    const { q, cache } = node.operands;
    const { heads, scale, dtype } = node.attrs;
    const kv = cache.type as KvType;
    const x = tensorType(q.type).dtype;
    if (kv.headDim % 16 !== 0) return `head_dim ${kv.headDim} is no multiple of 16`;
    if (!isFloat(x) || !isFloat(dtype) || !isFloat(kv.dtype)) return "element types other than f32 and bf16";
    return { ...cacheParams(kv, target), heads, scale, x, out: dtype, max_context: target.maxContext };
  },
  args: (params) => [
    { name: "q", type: constType(params.x) },
    { name: "cache", type: constType(params.kv) },
    { name: "block_table", type: "const int32_t" },
    { name: "query_start", type: "const int32_t" },
    { name: "context", type: "const int32_t" },
    { name: "workspace", type: "float" },
    { name: "out", type: cType(params.out) },
  ],
  workspace: partialBytes,
  // Of the rows themselves; what is read of the cache depends on the context and is the same for every kernel.
  cost: (params, rows) => ({
    bytes:
      rows *
      numberParam(params, "heads") *
      numberParam(params, "head_dim") *
      (bytesOf(dtypeParam(params, "x")) + bytesOf(dtypeParam(params, "out"))),
    operations: 0,
  }),
  file: (params) =>
    joinName(
      "attention",
      params.x as string,
      params.kv !== params.x && (params.kv as string),
      `h${params.heads}`,
      `kv${params.kv_heads}`,
      `d${params.head_dim}`,
      params.out !== params.x && (params.out as string),
    ),
  view: (params) => ({
    ...cacheView(params),
    heads: numberParam(params, "heads"),
    scale: cFloat(numberParam(params, "scale")),
    max_context: numberParam(params, "max_context"),
    partial_rows: partialRows(params),
    workspace: partialBytes(params),
    x: params.x as string,
    out: params.out as string,
  }),
});

/** Text has one position a token: all pairs of a head take the t column. */
function textOnly(sections: readonly number[]): boolean {
  return sections[0] === 0 && sections[1] === 0;
}

const ropeKvAppend = defineKernel({
  op: "rope_kv_append",
  name: "rope_kv_append",
  order: "exact",
  fit: (node, target) => {
    const { qkv, cache } = node.operands;
    const { heads, theta, sections, dtype } = node.attrs;
    const kv = cache.type as KvType;
    if (kv.headDim % 16 !== 0) return `head_dim ${kv.headDim} is no multiple of 16`;
    if (!textOnly(sections)) return "sections for images";
    if (tensorType(qkv.type).dtype !== "f32") return "qkv that is not f32";
    if (!isFloat(dtype) || dtype !== kv.dtype) return "a cache of another type than q";
    return { ...cacheParams(kv, target), heads, theta, x: "f32", out: dtype };
  },
  args: (params) => [
    { name: "qkv", type: constType(params.x) },
    { name: "positions", type: "const int32_t" },
    { name: "slots", type: "const int32_t" },
    { name: "cache", type: cType(params.kv) },
    { name: "q", type: cType(params.out) },
  ],
  cost: (params, rows) => ({
    bytes: 6 * rows * (numberParam(params, "heads") + 2 * numberParam(params, "kv_heads")) * numberParam(params, "head_dim"),
    operations: 0,
  }),
  file: (params) =>
    joinName("rope_kv_append", params.x as string, params.kv as string, `h${params.heads}`, `kv${params.kv_heads}`, `d${params.head_dim}`),
  view: (params) => {
    const [heads, kvHeads, headDim] = ["heads", "kv_heads", "head_dim"].map((name) => numberParam(params, name)) as [
      number,
      number,
      number,
    ];
    const [kStart, vStart] = [heads * headDim, (heads + kvHeads) * headDim];
    return {
      ...cacheView(params),
      heads,
      theta: cFloat(numberParam(params, "theta")),
      out: params.out as string,
      width: vStart + kvHeads * headDim,
      k_start: kStart,
      v_start: vStart,
    };
  },
});

const rope = defineKernel({
  op: "rope",
  name: "rope",
  order: "exact",
  fit: (node) => {
    const { heads, head_dim, theta, sections, dtype } = node.attrs;
    const { dtype: x, shape } = tensorType(node.operands.x.type);
    const rows = rowsOf(shape[0]);
    if (!rows || rows.times !== 1) return "rows are neither tokens nor sequences";
    if (head_dim % 16 !== 0) return `head_dim ${head_dim} is no multiple of 16`;
    if (!textOnly(sections)) return "sections for images";
    if (x !== "f32" || !isFloat(dtype)) return "element types other than f32 and bf16";
    return { heads, head_dim, theta, x, out: dtype, rows: rows.step };
  },
  args: (params) => [
    { name: "x", type: constType(params.x) },
    { name: "positions", type: "const int32_t" },
    { name: "out", type: cType(params.out) },
  ],
  cost: (params, rows) => ({ bytes: 6 * rows * numberParam(params, "heads") * numberParam(params, "head_dim"), operations: 0 }),
  file: (params) => joinName("rope", params.x as string, params.out as string, `h${params.heads}`, `d${params.head_dim}`),
  view: (params) => {
    const [heads, headDim] = [numberParam(params, "heads"), numberParam(params, "head_dim")];
    return {
      heads,
      head_dim: headDim,
      width: heads * headDim,
      theta: cFloat(numberParam(params, "theta")),
      x: params.x as string,
      out: params.out as string,
    };
  },
});

const kvAppend = defineKernel({
  op: "kv_append",
  name: "kv_append",
  order: "exact",
  fit: (node, target) => {
    const { cache, k, v } = node.operands;
    const { dtype: x, shape } = tensorType(k.type);
    const rows = rowsOf(shape[0]);
    const kv = cache.type as KvType;
    if (!rows || rows.times !== 1) return "rows are neither tokens nor sequences";
    if (kv.headDim % 16 !== 0) return `head_dim ${kv.headDim} is no multiple of 16`;
    if (!isFloat(x) || x !== tensorType(v.type).dtype) return "k and v of different types, or other than f32 and bf16";
    return { ...cacheParams(kv, target), x, rows: rows.step };
  },
  args: (params) => [
    { name: "cache", type: cType(params.kv) },
    { name: "k", type: constType(params.x) },
    { name: "v", type: constType(params.x) },
    { name: "slots", type: "const int32_t" },
  ],
  cost: (params, rows) => ({ bytes: 8 * rows * numberParam(params, "kv_heads") * numberParam(params, "head_dim"), operations: 0 }),
  file: (params) => joinName("kv_append", params.x as string, params.kv as string, `kv${params.kv_heads}`, `d${params.head_dim}`),
  view: (params) => ({
    ...cacheView(params),
    x: params.x as string,
    width: numberParam(params, "kv_heads") * numberParam(params, "head_dim"),
  }),
});

export const ATTENTION_KERNELS: readonly AnyKernel[] = [attention, ropeKvAppend, rope, kvAppend];
