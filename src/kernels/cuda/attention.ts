/** Attention over the paged cache and what fills it: runtime/device/cuda/attention_decode.cuh, attention_prefill.cuh, rope.cuh. */

import { cFloat } from "../common.js";
import { ONE, perRows } from "../cuda-launch.js";
import { type AnyKernel, type KernelParams, numberParam } from "../kernel-def.js";
import type { View } from "../view.js";
import { ceilDiv, defineCuda } from "./define.js";

const THREADS = 256;
/** Of attention_decode: a cluster of blocks is one sequence and key head. */
const CLUSTER = 8;
const WARPS = 8;
/** Rows and entries of a tile of attention_prefill. */
const TILE = 64;

function cacheView(params: KernelParams): View {
  return {
    kv_heads: numberParam(params, "kv_heads"),
    head_dim: numberParam(params, "head_dim"),
    block_size: numberParam(params, "block_size"),
    kv_block_bytes: numberParam(params, "kv_block_bytes"),
  };
}

function refuseCache(params: KernelParams): string | undefined {
  if (params.kv !== "bf16") return `a cache of ${params.kv}`;
  return numberParam(params, "block_size") % 16 === 0 ? undefined : "blocks of the cache that are no multiple of 16 tokens";
}

function refuseAttention(params: KernelParams): string | undefined {
  if (params.x !== "bf16" || params.out !== "bf16") return "queries or results other than bf16";
  return refuseCache(params);
}

/** Bytes of `attention_prefill_shared`, which the template compares. */
function prefillShared(params: KernelParams): number {
  const headDim = numberParam(params, "head_dim");
  return 2 * TILE * (ceilDiv(headDim, 64) * 64 + 32 + headDim + 8) * 2;
}

function attentionView(params: KernelParams): View {
  return { ...cacheView(params), heads: numberParam(params, "heads"), scale: cFloat(numberParam(params, "scale")) };
}

const QUERY_ARGS = ["q", "cache", "block_table"] as const;
const ARGUMENT_TYPES: { readonly [name: string]: string } = {
  q: "const Bf16",
  cache: "Bf16",
  out: "Bf16",
};

function argument(name: string): { readonly name: string; readonly type: string } {
  return { name, type: ARGUMENT_TYPES[name] ?? "const int32_t" };
}

const attentionDecode = defineCuda("attention", {
  name: "attention_decode",
  suffix: "one",
  // Row i belongs to sequence i there alone.
  programs: ["decode"],
  refuse: (params) =>
    numberParam(params, "heads") / numberParam(params, "kv_heads") <= 8 ? refuseAttention(params) : "more than 8 heads on one of the cache",
  args: () => [...QUERY_ARGS, "context", "out"].map(argument),
  launch: (params) => ({
    threads: 32 * WARPS,
    grid: [{ constant: CLUSTER }, { constant: numberParam(params, "kv_heads") }, perRows(1, 1, "sequences")],
    sharedBytes: 0,
    cluster: CLUSTER,
  }),
  view: (params) => ({ ...attentionView(params), cluster: CLUSTER, warps: WARPS }),
});

const attentionPrefill = defineCuda("attention", {
  name: "attention_prefill",
  refuse: refuseAttention,
  args: () => [...QUERY_ARGS, "query_start", "context", "out"].map(argument),
  launch: (params) => ({
    threads: 128,
    grid: [perRows(TILE, 1, "tokens"), { constant: numberParam(params, "heads") }, ONE],
    sharedBytes: prefillShared(params),
  }),
  view: (params) => ({ ...attentionView(params), shared_bytes: prefillShared(params) }),
});

const A_BLOCK_A_TOKEN = { threads: THREADS, grid: [perRows(1, 1, "tokens"), ONE, ONE], sharedBytes: 0 } as const;

const ropeKvAppend = defineCuda("rope_kv_append", {
  name: "rope_kv_append",
  refuse: refuseCache,
  launch: () => A_BLOCK_A_TOKEN,
  view: (params) => ({
    ...cacheView(params),
    heads: numberParam(params, "heads"),
    theta: cFloat(numberParam(params, "theta")),
    out: params.out as string,
  }),
});

const rope = defineCuda("rope", {
  name: "rope",
  launch: () => A_BLOCK_A_TOKEN,
  view: (params) => ({
    heads: numberParam(params, "heads"),
    head_dim: numberParam(params, "head_dim"),
    theta: cFloat(numberParam(params, "theta")),
    out: params.out as string,
  }),
});

const kvAppend = defineCuda("kv_append", {
  name: "kv_append",
  refuse: refuseCache,
  launch: () => A_BLOCK_A_TOKEN,
  view: (params) => ({ ...cacheView(params), x: params.x as string }),
});

export const CUDA_ATTENTION_KERNELS: readonly AnyKernel[] = [attentionDecode, attentionPrefill, ropeKvAppend, rope, kvAppend];
