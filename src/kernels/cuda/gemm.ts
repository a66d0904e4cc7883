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
const STAGES = 4;
/** Rows of a full chunk of prefill: what columns are chosen by. */
const USUAL_ROWS = 2048;

interface GemmTiling {
  readonly columns: number;
  /** The two warpgroups take tiles in turns: one stores while the other multiplies. */
  readonly turns: boolean;
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
  return { columns, turns: columns <= 128 };
}

/** `gemm_shared_bytes`, which the template compares. */
function sharedBytes({ columns }: GemmTiling): number {
  return 1024 + STAGES * ((TILE_ROWS + columns) * TILE_K * 2 + 16) + 2 * 8;
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
    maps: [map("x", "rows", TILE_ROWS), map("weight", numberParam(params, "n"), tiling.columns)],
  };
}

type Base<K extends OpName> = Omit<CudaEntry<K>, "suffix" | "mostRows">;

function gemm<K extends OpName>(op: K, base: Base<K>, widths: readonly number[], step: number): AnyKernel {
  const { tunables: _, late: __, ...entry } = base;
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
        stages: STAGES,
        turns: tiling.turns,
        shared_bytes: sharedBytes(tiling),
      };
    },
  });
}

export function gemmLinear(base: Base<"linear">): AnyKernel {
  return gemm("linear", base, [128, 160, 192, 224, 256], 8);
}

/** Gate and up alternate in groups of 32 at most: a tile holds whole pairs. */
export function gemmSwiglu(base: Base<"linear_swiglu">): AnyKernel {
  return gemm("linear_swiglu", base, [128, 192, 256], 16);
}
