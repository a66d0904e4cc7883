/**
 * Products of many rows: runtime/device/cuda/gemm.cuh, which brings tiles of x and W to shared memory with the tensor memory accelerator and multiplies them
 * with wgmma. Hopper only.
 */

import type { OpName } from "../../ir/ops.js";
import { joinName } from "../common.js";
import { type CudaLaunch, ONE, type TensorMap } from "../cuda-launch.js";
import { type AnyKernel, type KernelParams, numberParam } from "../kernel-def.js";
import type { View } from "../view.js";
import { type CudaEntry, ceilDiv, defineCuda } from "./define.js";
import { MULTIPROCESSORS } from "./tiling.js";

/** Three warpgroups: one copies, two multiply. */
const THREADS = 384;
const TILE_K = 64;
const TILE_ROWS = 128;
/** Shared memory that a block can have, and most stages of the ring: more bring nothing. */
const SHARED_BYTES = 227 * 1024;
const MOST_STAGES = 6;
/** Rows of a full chunk of prefill: what columns are chosen by. */
const USUAL_ROWS = 2048;

interface GemmTiling {
  readonly columns: number;
  /** The two warpgroups take tiles in turns: one stores while the other multiplies. */
  readonly turns: boolean;
  /** Blocks that share the tile of W. */
  readonly cluster: number;
}

/** The width of tiles with which the multiprocessors are full until the end. */
function tilingOf(params: KernelParams, widths: readonly number[]): GemmTiling {
  const n = numberParam(params, "n");
  const cost = (columns: number): number => {
    const tiles = ceilDiv(USUAL_ROWS, TILE_ROWS) * ceilDiv(n, columns);
    // A tile costs its columns, and something to begin and end.
    return ceilDiv(tiles, MULTIPROCESSORS) * (columns + 24);
  };
  const columns = widths.reduce((best, width) => (cost(width) < cost(best) ? width : best));
  // Each has a whole tile's sums in registers, and with a residual no room to tell which columns there are, nor, of wide tiles, for a bias.
  const widest = params.bias === true ? 128 : 160;
  const turns = params.residual === true ? n % columns === 0 && columns <= widest : columns <= 128;
  // Where L2 has a residual or wide rows of f32 to move besides, W is fetched once for two blocks (bench/NOTES-cuda-prefill.md).
  const shares = params.residual === true ? turns : params.group === undefined && columns > 192;
  return { columns, turns, cluster: shares ? 2 : 1 };
}

function stageBytes({ columns }: GemmTiling): number {
  return (TILE_ROWS + columns) * TILE_K * 2 + 16;
}

const BESIDE_STAGES = 1024 + 2 * 8;

function stagesOf(tiling: GemmTiling): number {
  return Math.min(MOST_STAGES, Math.floor((SHARED_BYTES - BESIDE_STAGES) / stageBytes(tiling)));
}

/** `gemm_shared_bytes`, which the template compares. */
function sharedBytes(tiling: GemmTiling): number {
  return BESIDE_STAGES + stagesOf(tiling) * stageBytes(tiling);
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
    maps: [map("x", "rows", TILE_ROWS), map("weight", numberParam(params, "n"), tiling.columns / tiling.cluster)],
  };
}

type Base<K extends OpName> = Omit<CudaEntry<K>, "suffix" | "mostRows">;

/** Up to so many rows a tile of 128 rows leaves most multiprocessors idle. */
const FEW_ROWS = 64;

function gemm<K extends OpName>(op: K, base: Base<K>, widths: readonly number[], step: number): AnyKernel {
  const { tunables: _, ...entry } = base;
  return defineCuda(op, {
    ...entry,
    name: "gemm",
    order: "wgmma-k",
    fit: (node, target) =>
      target.arch === "sm_90a" ? (base.fit as NonNullable<typeof base.fit>)(node, target) : `needs sm_90a, not ${target.arch}`,
    refuse: (params) =>
      params.norm
        ? "a norm in front"
        : numberParam(params, "n") % step === 0
          ? undefined
          : `${params.n} rows of the weight are no multiple of ${step}`,
    file: (params) => joinName((base.file as NonNullable<typeof base.file>)(params), "gemm"),
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
        tile_rows: TILE_ROWS,
        columns: tiling.columns,
        stages: stagesOf(tiling),
        turns: tiling.turns,
        cluster: tiling.cluster,
        shared_bytes: sharedBytes(tiling),
      };
    },
  });
}

export function gemmLinear(base: Base<"linear">): AnyKernel {
  return gemm("linear", base, [128, 160, 192, 224, 256], 8);
}

/** With the residual stream: while one warpgroup multiplies, the other has the residual of its next tile on the way. */
export function gemmProjection(base: Base<"projection">): AnyKernel {
  return gemm("projection", { ...base, leastRows: FEW_ROWS + 1 }, [64, 96, 128, 160], 8);
}

/** Gate and up alternate in groups of 32 at most: a tile holds whole pairs. */
export function gemmSwiglu(base: Base<"linear_swiglu">): AnyKernel {
  return gemm("linear_swiglu", base, [128, 192, 256], 16);
}
