/** Attention over the paged cache and what fills it: runtime/device/cuda/attention_decode.cuh, attention_wgmma.cuh, attention_prefill.cuh, rope.cuh. */

import type { KvType } from "../../ir/types.js";
import type { ArchLevel } from "../../toolchain/arch.js";
import { ATTENTION_KERNELS } from "../attention.js";
import { cFloat, joinName } from "../common.js";
import { type CudaLaunch, ONE, perRows, type TensorMap } from "../cuda-launch.js";
import { type AnyKernel, type KernelDef, type KernelParams, numberParam, tensorType } from "../kernel-def.js";
import type { View } from "../view.js";
import { ceilDiv, defineCuda } from "./define.js";

const THREADS = 256;
/** Blocks of a cluster; before Hopper there are none. */
export function clusterFor(arch: ArchLevel): number {
  return arch === "sm_90a" ? 8 : 1;
}
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

function decodeLaunch(params: KernelParams): CudaLaunch {
  return {
    threads: 32 * WARPS,
    grid: [{ constant: numberParam(params, "cluster") }, { constant: numberParam(params, "kv_heads") }, perRows(1, 1, "sequences")],
    sharedBytes: 0,
    cluster: numberParam(params, "cluster"),
  };
}

const CPU_ATTENTION = ATTENTION_KERNELS.find(({ op }) => op === "attention") as unknown as KernelDef<"attention">;

const attentionDecode = defineCuda("attention", {
  name: "attention_decode",
  suffix: "one",
  // Row i belongs to sequence i there alone.
  programs: ["decode"],
  fit: (node, target) => {
    const params = CPU_ATTENTION.fit(node, target);
    return typeof params === "string" ? params : { ...params, cluster: clusterFor(target.arch) };
  },
  refuse: (params) =>
    numberParam(params, "heads") / numberParam(params, "kv_heads") <= 8 ? refuseAttention(params) : "more than 8 heads on one of the cache",
  args: () => [...QUERY_ARGS, "context", "out"].map(argument),
  launch: decodeLaunch,
  view: (params) => ({ ...attentionView(params), cluster: numberParam(params, "cluster"), warps: WARPS }),
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

/** What runtime/device/cuda/attention_wgmma.cuh is made for: rows and entries of a tile, three stages of K and V. */
const WGMMA = { headDim: 128, tile: 128, stages: 3 } as const;
const TILE_BYTES = WGMMA.tile * WGMMA.headDim * 2;
/** `attention_wgmma_shared`, which the template compares. */
const WGMMA_SHARED = 1024 + TILE_BYTES + WGMMA.stages * (2 * TILE_BYTES + 16) + 8;
/** More blocks than any cache has: how many there are is known when the package is loaded. */
const MOST_BLOCKS = 2 ** 24;

/** Boxes of the queries' rows, and of the entries of a tile that lie together. */
function wgmmaMaps(params: KernelParams): readonly TensorMap[] {
  const { kv_heads: kvHeads, block_size: blockSize, kv_block_bytes: blockBytes } = cacheView(params) as { readonly [name: string]: number };
  const [dims, rowBytes] = [WGMMA.headDim, WGMMA.headDim * 2];
  const heads = numberParam(params, "heads");
  return [
    { arg: "q", dtype: "bf16", dims: [heads * dims, "rows"], strides: [heads * rowBytes], box: [64, WGMMA.tile], swizzle: 128 },
    {
      arg: "cache",
      dtype: "bf16",
      dims: [dims, 2 * (kvHeads as number) * (blockSize as number), MOST_BLOCKS],
      strides: [rowBytes, blockBytes as number],
      box: [64, Math.min(blockSize as number, WGMMA.tile), 1],
      swizzle: 128,
    },
  ];
}

const attentionWgmma = defineCuda("attention", {
  name: "attention_wgmma",
  file: (params) => joinName(CPU_ATTENTION.file(params), "wgmma"),
  order: "wgmma-tiles",
  // `deterministic` takes the order of the first that has no such bound.
  leastRows: 2,
  fit: (node, target) => (target.arch === "sm_90a" ? CPU_ATTENTION.fit(node, target) : `needs sm_90a, not ${target.arch}`),
  refuse: (params) => {
    if (params.head_dim !== WGMMA.headDim) return `head_dim ${params.head_dim}, not ${WGMMA.headDim}`;
    const blockSize = numberParam(params, "block_size");
    const whole = WGMMA.tile % blockSize === 0 || blockSize % WGMMA.tile === 0;
    return whole ? refuseAttention(params) : `blocks of ${blockSize} tokens do not make whole tiles`;
  },
  args: () => [...QUERY_ARGS, "query_start", "context", "out"].map(argument),
  launch: (params) => ({
    threads: 384,
    grid: [{ constant: numberParam(params, "heads") }, perRows(WGMMA.tile, 1, "tokens"), ONE],
    sharedBytes: WGMMA_SHARED,
    maps: wgmmaMaps(params),
  }),
  view: (params) => ({ ...attentionView(params), shared_bytes: WGMMA_SHARED }),
});

const FUSED_ARGS = ["qkv", "positions", "slots", "cache", "block_table", "context", "out"] as const;

const ropeAttention = defineCuda("rope_attention", {
  name: "rope_attention",
  programs: ["decode"],
  order: "fixed-tiles",
  fit: (node, target) => {
    const { qkv, cache } = node.operands;
    const { heads, theta, scale, sections, dtype } = node.attrs;
    const kv = cache.type as KvType;
    if (kv.headDim % 16 !== 0) return `head_dim ${kv.headDim} is no multiple of 16`;
    if (sections[0] !== 0 || sections[1] !== 0) return "sections for images";
    if (tensorType(qkv.type).dtype !== "f32" || dtype !== "bf16" || kv.dtype !== "bf16")
      return "other types than f32 in, bf16 in the cache and out";
    if (heads / kv.heads > 8) return "more than 8 heads on one of the cache";
    const { kvBlockSize: block_size, kvBlockBytes: kv_block_bytes } = target;
    const cluster = clusterFor(target.arch);
    return { cluster, kv: kv.dtype, kv_heads: kv.heads, head_dim: kv.headDim, block_size, kv_block_bytes, heads, theta, scale };
  },
  args: () => FUSED_ARGS.map((name) => (name === "qkv" ? { name, type: "const float" } : argument(name))),
  cost: (params, rows) => ({
    bytes: 6 * rows * (numberParam(params, "heads") + 2 * numberParam(params, "kv_heads")) * numberParam(params, "head_dim"),
    operations: 0,
  }),
  file: (params) => joinName("rope_attention", `h${params.heads}`, `kv${params.kv_heads}`, `d${params.head_dim}`),
  launch: decodeLaunch,
  view: (params) => ({
    ...attentionView(params),
    theta: cFloat(numberParam(params, "theta")),
    cluster: numberParam(params, "cluster"),
    warps: WARPS,
  }),
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

export const CUDA_ATTENTION_KERNELS: readonly AnyKernel[] = [
  attentionDecode,
  attentionWgmma,
  attentionPrefill,
  ropeAttention,
  ropeKvAppend,
  rope,
  kvAppend,
];
