/**
 * Products of many rows: runtime/device/cuda/gemm.cuh, which brings tiles of x and W to shared memory with the tensor memory accelerator and multiplies them
 * with wgmma. Hopper only.
 */

import type { OpName } from "../../ir/ops.js";
import type { KvType } from "../../ir/types.js";
import { joinName } from "../common.js";
import { CUDA_LIMITS, type CudaLaunch, ONE, type TensorMap } from "../cuda-launch.js";
import { type AnyKernel, type Footprint, type KernelParams, numberParam, type Tunable, type TuningPlace } from "../kernel-def.js";
import { productCost, productParams } from "../matmul.js";
import type { View } from "../view.js";
import { cacheView, refuseCache } from "./attention.js";
import { BF16_ROWS, type CudaEntry, ceilDiv, defineCuda, F32_ROWS } from "./define.js";
import { MULTIPROCESSORS } from "./tiling.js";

/** Three warpgroups: one copies, two multiply. */
const THREADS = 384;
const TILE_K = 64;
const TILE_ROWS = 128;
/** Most stages of the ring by default: more bring nothing. */
const MOST_STAGES = 6;
/** f32 sums that a thread of a multiplying warpgroup has registers for. */
const MOST_SUMS = 160;
/** Rows of a full chunk of prefill: what columns are chosen by. */
const USUAL_ROWS = 2048;

interface GemmTiling {
  readonly rows: number;
  readonly columns: number;
  readonly stages: number;
  /** The two warpgroups take tiles in turns: one stores while the other multiplies. */
  readonly turns: boolean;
  /** Blocks that share the tile of W. */
  readonly cluster: number;
}

/** The width of tiles with which the multiprocessors are full until the end. */
function usualColumns(params: KernelParams, widths: readonly number[]): number {
  const n = numberParam(params, "n");
  const cost = (columns: number): number => {
    const tiles = ceilDiv(USUAL_ROWS, TILE_ROWS) * ceilDiv(n, columns);
    // A tile costs its columns, and something to begin and end.
    return ceilDiv(tiles, MULTIPROCESSORS) * (columns + 24);
  };
  return widths.reduce((best, width) => (cost(width) < cost(best) ? width : best));
}

function tilingOf(params: KernelParams, widths: readonly number[]): GemmTiling {
  const given = (name: string, standard: number): number => (typeof params[name] === "number" ? params[name] : standard);
  const columns = given("columns", usualColumns(params, widths));
  const rows = given("tile_rows", TILE_ROWS);
  const turns = given("turns", usualTurns(params, columns)) === 1;
  return {
    rows,
    columns,
    stages: given("stages", usualStages(rows, columns)),
    turns,
    cluster: given("cluster", usualCluster(params, columns, turns)),
  };
}

function stageBytes(rows: number, columns: number): number {
  return (rows + columns) * TILE_K * 2 + 16;
}

const BESIDE_STAGES = 1024 + 2 * 8;

function usualStages(rows: number, columns: number): number {
  return Math.min(MOST_STAGES, Math.floor((CUDA_LIMITS.sharedBytes - BESIDE_STAGES) / stageBytes(rows, columns)));
}

/** Each has a whole tile's sums in registers, and with a residual no room to tell which columns there are, nor, of wide tiles, for a bias. */
function usualTurns({ residual, bias, n }: KernelParams, columns: number): number {
  if (residual !== true) return columns <= 128 ? 1 : 0;
  return (n as number) % columns === 0 && columns <= (bias === true ? 128 : 160) ? 1 : 0;
}

/** Where L2 has a residual or wide rows of f32 to move besides, W is fetched once for two blocks (bench/NOTES-cuda-prefill.md). */
function usualCluster({ residual, group }: KernelParams, columns: number, turns: boolean): number {
  return (residual === true ? turns : group === undefined && columns > 192) ? 2 : 1;
}

/** Of tiles that are rotated in their epilogue: whole runs of 32 columns. */
const ROPE_COLUMNS = [128, 160, 192, 224, 256];

/** Widths that wgmma.cuh has; which of them are the default's is each op's. */
const COLUMNS = [64, 96, 128, 160, 192, 224, 256];

/** Sums run over k in order whatever the tile. */
function gemmTunables(widths: readonly number[]): readonly Tunable[] {
  return [
    { name: "tile_rows", summary: "rows of x in a tile", values: () => [64, 128, 256], default: () => TILE_ROWS },
    { name: "columns", summary: "rows of the weight in a tile", values: () => COLUMNS, default: (params) => usualColumns(params, widths) },
    {
      name: "stages",
      summary: "parts of 64 k that are on their way at once",
      values: () => [3, 4, 5, 6, 7],
      default: (params) => {
        const { rows, columns } = tilingOf(params, widths);
        return usualStages(rows, columns);
      },
    },
    {
      name: "turns",
      summary: "whether the warpgroups take tiles in turns, or share each",
      values: () => [0, 1],
      default: (params) => usualTurns(params, tilingOf(params, widths).columns),
    },
    {
      name: "cluster",
      summary: "blocks that share what they fetch of the weight",
      values: () => [1, 2],
      default: (params) => {
        const { columns, turns } = tilingOf(params, widths);
        return usualCluster(params, columns, turns);
      },
    },
  ];
}

/** What gemm.cuh asserts, what registers and shared memory hold. */
function gemmAllowed(params: KernelParams, { rows }: TuningPlace, widths: readonly number[]): boolean {
  const tiling = tilingOf(params, widths);
  if (gemmTunables(widths).every(({ name, default: value }) => params[name] === undefined || params[name] === value(params))) return true;
  const own = tiling.turns ? tiling.rows : tiling.rows / 2;
  if (own % 64 !== 0 || (own / 64) * (tiling.columns / 2) > MOST_SUMS) return false;
  if (sharedBytes(tiling) > CUDA_LIMITS.sharedBytes) return false;
  if (typeof params.group === "number" && tiling.columns % (2 * params.group) !== 0) return false;
  // Blocks of a cluster take tiles of the same columns: there must be several.
  return tiling.cluster === 1 || rows > tiling.rows;
}

/** With a tunable at another value than it has by itself, the name says so. */
function gemmSuffix(params: KernelParams, widths: readonly number[]): string {
  return gemmTunables(widths)
    .filter(({ name, default: value }) => params[name] !== undefined && params[name] !== value(params))
    .map(({ name }) => `${name.replace("_", "")}${params[name]}`)
    .join("_");
}

/** `gemm_shared_bytes`, which the template compares. */
function sharedBytes({ rows, columns, stages }: GemmTiling): number {
  return BESIDE_STAGES + stages * stageBytes(rows, columns);
}

function gemmFootprint(params: KernelParams, { rows }: TuningPlace, tiling: GemmTiling): Footprint {
  return {
    cacheBytes: sharedBytes(tiling),
    residents: 1,
    blocks: ceilDiv(rows, tiling.rows) * ceilDiv(numberParam(params, "n"), tiling.columns),
    blockOperations: 2 * tiling.rows * tiling.columns * numberParam(params, "k"),
    steps: numberParam(params, "k") / TILE_K,
  };
}

/** The few-row kernels name theirs alike. */
function withoutTunables(params: KernelParams): KernelParams {
  const { tile_rows: _, stages: __, ...rest } = params;
  return rest;
}

function launchOf(params: KernelParams, tiling: GemmTiling): CudaLaunch {
  const k = numberParam(params, "k");
  const map = (arg: string, rows: number | "rows", boxRows: number): TensorMap => ({
    arg,
    dtype: "bf16",
    dims: [k, rows],
    strides: [2 * k],
    box: [TILE_K, boxRows],
    swizzle: 128,
  });
  return {
    threads: THREADS,
    grid: [{ constant: MULTIPROCESSORS }, ONE, ONE],
    sharedBytes: sharedBytes(tiling),
    cluster: tiling.cluster,
    maps: [map("x", "rows", tiling.rows), map("weight", numberParam(params, "n"), tiling.columns / tiling.cluster)],
  };
}

/** In pairs 8192 rows of the 21B take 245 us, without 224 (bench/NOTES-cuda-prefill.md). */
function ropeTiling(params: KernelParams): GemmTiling {
  return tilingOf({ ...params, cluster: 1 }, ROPE_COLUMNS);
}

/** q, k and v of many rows, rotated, rounded and appended while their sums are in registers. */
export const gemmRope = defineCuda("qkv_rope_append", {
  name: "gemm_rope",
  order: "wgmma-k",
  only: "sm_90a",
  weights: { weight: BF16_ROWS, bias: F32_ROWS },
  fit: (node, { kvBlockSize: block_size, kvBlockBytes: kv_block_bytes }) => {
    const { x, weight, bias, cache } = node.operands;
    const params = productParams(x, weight, x);
    if (typeof params === "string") return params;
    if (params.x !== "bf16" || node.attrs.dtype !== "bf16") return "x or queries that are not bf16";
    if (params.rows !== "tokens" || params.times !== undefined) return "rows that are not tokens";
    if (numberParam(params, "k") % 8 !== 0) return `rows of ${params.k} are no multiple of 16 bytes`;
    const kv = cache.type as KvType;
    if (kv.headDim % 32 !== 0) return `head_dim ${kv.headDim} is no multiple of 32`;
    const pool = { kv: kv.dtype, kv_heads: kv.heads, head_dim: kv.headDim, block_size, kv_block_bytes };
    return { ...params, ...pool, heads: node.attrs.heads, bias: bias !== undefined };
  },
  refuse: refuseCache,
  args: (params) => [
    { name: "x", type: "const Bf16" },
    { name: "weight", type: "const Bf16" },
    ...(params.bias ? [{ name: "bias", type: "const float" }] : []),
    { name: "turns", type: "const float" },
    { name: "slots", type: "const int32_t" },
    { name: "cache", type: "Bf16" },
    { name: "q", type: "Bf16" },
  ],
  cost: (params, rows) => productCost(params, rows, 2),
  file: (params) =>
    joinName("qkv_rope_append", `h${params.heads}`, `kv${params.kv_heads}`, `d${params.head_dim}`, `k${params.k}`, params.bias && "bias"),
  launch: (params) => launchOf(params, ropeTiling(params)),
  view: (params) => {
    const tiling = ropeTiling(params);
    return {
      ...cacheView(params),
      heads: numberParam(params, "heads"),
      n: numberParam(params, "n"),
      k: numberParam(params, "k"),
      bias: params.bias as boolean,
      ...tilingView(tiling),
    };
  },
});

type Base<K extends OpName> = Omit<CudaEntry<K>, "suffix" | "mostRows">;

function tilingView(tiling: GemmTiling): View {
  const { rows, columns, stages, turns, cluster } = tiling;
  return { tile_rows: rows, columns, stages, turns, cluster, shared_bytes: sharedBytes(tiling) };
}

/** Up to so many rows a tile of 128 rows leaves most multiprocessors idle. */
const FEW_ROWS = 64;

function gemm<K extends OpName>(op: K, base: Base<K>, widths: readonly number[], step: number): AnyKernel {
  const { late: _, ...entry } = base;
  return defineCuda(op, {
    ...entry,
    name: "gemm",
    order: "wgmma-k",
    only: "sm_90a",
    worth: { least: 16 },
    tunables: gemmTunables(widths),
    constraint: (params, place) => gemmAllowed(params, place, widths),
    footprint: (params, place) => gemmFootprint(params, place, tilingOf(params, widths)),
    refuse: (params) =>
      params.norm
        ? "a norm in front"
        : numberParam(params, "n") % step === 0
          ? undefined
          : `${params.n} rows of the weight are no multiple of ${step}`,
    file: (params) => joinName((base.file as NonNullable<typeof base.file>)(withoutTunables(params)), "gemm", gemmSuffix(params, widths)),
    launch: (params) => launchOf(params, tilingOf(params, widths)),
    view: (params): View => {
      const tiling = tilingOf(params, widths);
      return {
        n: numberParam(params, "n"),
        k: numberParam(params, "k"),
        x: params.x as string,
        out: params.out as string,
        bias: params.bias as boolean,
        residual: params.residual === true,
        swiglu: op === "linear_swiglu",
        group: typeof params.group === "number" ? params.group : 32,
        ...tilingView(tiling),
      };
    },
  });
}

export function gemmLinear(base: Base<"linear">): AnyKernel {
  return gemm("linear", base, [128, 160, 192, 224, 256], 8);
}

/** With the residual stream: while one warpgroup multiplies, the other has the residual of its next tile on the way. */
export function gemmProjection(base: Base<"projection">): AnyKernel {
  return gemm("projection", { ...base, leastRows: FEW_ROWS + 1, inPlace: { out: "residual" } }, [64, 96, 128, 160], 8);
}

/** Gate and up alternate in groups of 32 at most: a tile holds whole pairs. */
export function gemmSwiglu(base: Base<"linear_swiglu">): AnyKernel {
  return gemm("linear_swiglu", base, [128, 192, 256], 16);
}
