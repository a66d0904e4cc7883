/** Attention over the paged cache and what fills it: runtime/device/cuda/attention_decode.cuh, attention_wgmma.cuh, attention_prefill.cuh, rope.cuh. */

import { Diagnostic } from "../../diagnostics.js";
import type { KvType } from "../../ir/types.js";
import type { ArchLevel, CudaArch } from "../../toolchain/arch.js";
import { ATTENTION_KERNELS } from "../attention.js";
import { cFloat, joinName } from "../common.js";
import { type CudaLaunch, ONE, perRows, type TensorMap } from "../cuda-launch.js";
import {
  type AnyKernel,
  type Argument,
  type KernelDef,
  type KernelParams,
  type KernelTarget,
  numberParam,
  tensorType,
} from "../kernel-def.js";
import type { View } from "../view.js";
import { type CudaEntry, ceilDiv, defineCuda } from "./define.js";
import { MULTIPROCESSORS } from "./tiling.js";

const THREADS = 256;
/** Blocks of a cluster; before Hopper there are none. */
export function clusterFor(arch: ArchLevel): number {
  return arch === "sm_90a" ? 8 : 1;
}

/** Decode is cut up by how many sequences there are. */
interface DecodeRows {
  readonly suffix?: string;
  readonly mostRows?: number;
}
const DECODE_ROWS: readonly DecodeRows[] = [
  { mostRows: 1 },
  ...[4, 8, 16, 32].map((mostRows) => ({ suffix: `x${mostRows}`, mostRows })),
  { suffix: "many" },
];
const MOST_SPLITS = { sm_90a: 8, sm_80: 16 } as const;
/** Sequences that there are counters for, where contexts are split. */
const MOST_SEQUENCES = 4096;
/** Of a step, that have work where contexts are long: more of them, in clusters, wait for places (bench/NOTES-cuda-decode.md). */
const MOST_BLOCKS = MULTIPROCESSORS / 2;
/** The same of one head of the cache, and of a cluster where there is one sequence: with few heads, and with more, whose short contexts pay more for idle blocks. */
const MOST_OF_HEAD = { few: { heads: 2, blocks: 32, cluster: 4 }, more: { blocks: 8, cluster: 1 } } as const;
const MOST_CLUSTER = 4;
/** Tiles of 16 entries that each warp takes before another block joins: with many sequences others have work meanwhile. */
const LEAST_TILES = { few: 1, many: 3 } as const;
/** Sequences up to which there are few. */
const FEW = 4;

/** How many blocks share a sequence and head of the cache; where one is more than there are multiprocessors, smaller blocks. */
function decodeCut(arch: CudaArch, kvHeads: number, mostRows = 64): KernelParams {
  const units = mostRows * kvHeads;
  const power = (x: number, most: number): number => Math.min(most, 2 ** Math.floor(Math.log2(Math.max(1, x))));
  const most = MOST_OF_HEAD[kvHeads <= MOST_OF_HEAD.few.heads ? "few" : "more"];
  const blocks = power(MOST_BLOCKS / units, most.blocks);
  const cluster = Math.min(clusterFor(arch), blocks, mostRows === 1 ? most.cluster : MOST_CLUSTER);
  const splits = Math.min(blocks / cluster, MOST_SPLITS[arch]);
  return { cluster, splits, least: LEAST_TILES[mostRows <= FEW ? "few" : "many"], warps: units > MULTIPROCESSORS ? 4 : 8 };
}
/** Rows and entries of a tile of attention_prefill. */
const TILE = 64;

export function cacheView(params: KernelParams): View {
  return {
    kv_heads: numberParam(params, "kv_heads"),
    head_dim: numberParam(params, "head_dim"),
    block_size: numberParam(params, "block_size"),
    kv_block_bytes: numberParam(params, "kv_block_bytes"),
  };
}

export function refuseCache(params: KernelParams): string | undefined {
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

function cudaArch({ arch }: KernelTarget): CudaArch {
  return arch as CudaArch;
}

function argument(name: string): { readonly name: string; readonly type: string } {
  return { name, type: ARGUMENT_TYPES[name] ?? "const int32_t" };
}

function decodeLaunch(params: KernelParams): CudaLaunch {
  const cluster = numberParam(params, "cluster");
  return {
    threads: 32 * numberParam(params, "warps"),
    grid: [
      { constant: cluster * numberParam(params, "splits") },
      { constant: numberParam(params, "kv_heads") },
      perRows(1, 1, "sequences"),
    ],
    sharedBytes: 0,
    cluster,
  };
}

function isSplit(params: KernelParams): boolean {
  return numberParam(params, "splits") > 1;
}

/** `attention_workspace`, which the template compares. */
function decodeWorkspace(params: KernelParams, rows: number): number {
  if (!isSplit(params)) return 0;
  if (rows > MOST_SEQUENCES)
    throw new Diagnostic({
      code: "batch-too-large",
      kind: "unsupported",
      message: `${rows} sequences in a step, expected at most ${MOST_SEQUENCES}`,
    });
  const [heads, kvHeads, headDim] = ["heads", "kv_heads", "head_dim"].map((name) => numberParam(params, name)) as [number, number, number];
  return rows * kvHeads * numberParam(params, "splits") * ((heads / kvHeads) * headDim + 16) * 4;
}

function splitArgs(params: KernelParams): readonly Argument[] {
  return isSplit(params) ? [{ name: "workspace", type: "void" }] : [];
}

function decodeView(params: KernelParams): View {
  return {
    ...attentionView(params),
    cluster: numberParam(params, "cluster"),
    warps: numberParam(params, "warps"),
    splits: numberParam(params, "splits"),
    least: numberParam(params, "least"),
    split: isSplit(params),
    counters: MOST_SEQUENCES * numberParam(params, "kv_heads") * numberParam(params, "cluster"),
    workspace_of_7: decodeWorkspace(params, 7),
  };
}

const CPU_ATTENTION = ATTENTION_KERNELS.find(({ op }) => op === "attention") as unknown as KernelDef<"attention">;

function variantOf({ suffix, mostRows }: DecodeRows): Pick<CudaEntry, "suffix" | "mostRows" | "order"> {
  return {
    ...(suffix === undefined ? {} : { suffix }),
    ...(mostRows === undefined ? {} : { mostRows }),
    // Each cuts a context up in its own way.
    order: "by-bucket",
  };
}

const attentionDecode = DECODE_ROWS.map((rows) =>
  defineCuda("attention", {
    name: "attention_decode",
    ...variantOf(rows),
    // Row i belongs to sequence i there alone.
    programs: ["decode"],
    fit: (node, target) => {
      const params = CPU_ATTENTION.fit(node, target);
      return typeof params === "string"
        ? params
        : { ...params, ...decodeCut(cudaArch(target), numberParam(params, "kv_heads"), rows.mostRows) };
    },
    refuse: (params) =>
      numberParam(params, "heads") / numberParam(params, "kv_heads") <= 8
        ? refuseAttention(params)
        : "more than 8 heads on one of the cache",
    args: (params) => [...[...QUERY_ARGS, "context", "out"].map(argument), ...splitArgs(params)],
    workspace: decodeWorkspace,
    file: (params) => joinName("attention_decode", `h${params.heads}`, `kv${params.kv_heads}`, `d${params.head_dim}`),
    launch: decodeLaunch,
    view: decodeView,
  }),
);

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
const CACHE_BLOCKS = 2 ** 24;

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
      dims: [dims, 2 * (kvHeads as number) * (blockSize as number), CACHE_BLOCKS],
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

function ropeAttention(rows: DecodeRows): AnyKernel {
  return defineCuda("rope_attention", {
    name: "rope_attention",
    ...variantOf(rows),
    programs: ["decode"],
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
      const cut = decodeCut(cudaArch(target), kv.heads, rows.mostRows);
      return { ...cut, kv: kv.dtype, kv_heads: kv.heads, head_dim: kv.headDim, block_size, kv_block_bytes, heads, theta, scale };
    },
    args: (params) => [
      ...FUSED_ARGS.map((name) => (name === "qkv" ? { name, type: "const float" } : argument(name))),
      ...splitArgs(params),
    ],
    workspace: decodeWorkspace,
    cost: (params, rows) => ({
      bytes: 6 * rows * (numberParam(params, "heads") + 2 * numberParam(params, "kv_heads")) * numberParam(params, "head_dim"),
      operations: 0,
    }),
    file: (params) => joinName("rope_attention", `h${params.heads}`, `kv${params.kv_heads}`, `d${params.head_dim}`),
    launch: decodeLaunch,
    view: (params) => ({ ...decodeView(params), theta: cFloat(numberParam(params, "theta")) }),
  });
}

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

/** Rows of a block: `rope_turns_rows` of rope.cuh. */
function turnRows(params: KernelParams): number {
  return Math.floor(THREADS / (numberParam(params, "head_dim") / 8));
}

const ropeTurns = defineCuda("rope_turns", {
  name: "rope_turns",
  order: "exact",
  fit: (node) => {
    const { head_dim, theta, sections } = node.attrs;
    if (head_dim > 8 * THREADS) return `head_dim ${head_dim}, expected up to ${8 * THREADS}`;
    if (sections[0] !== 0 || sections[1] !== 0) return "sections for images";
    return { head_dim, theta };
  },
  args: () => [argument("positions"), { name: "out", type: "float" }],
  cost: (params, rows) => ({ bytes: 4 * rows * numberParam(params, "head_dim"), operations: 0 }),
  file: (params) => joinName("rope_turns", `d${params.head_dim}`),
  launch: (params) => ({ threads: THREADS, grid: [perRows(turnRows(params), 1, "tokens"), ONE, ONE], sharedBytes: 0 }),
  view: (params) => ({ head_dim: numberParam(params, "head_dim"), theta: cFloat(numberParam(params, "theta")) }),
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
  ...attentionDecode,
  attentionWgmma,
  attentionPrefill,
  ...DECODE_ROWS.map(ropeAttention),
  ropeKvAppend,
  ropeTurns,
  rope,
  kvAppend,
];
