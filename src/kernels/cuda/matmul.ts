/**
 * Products of a few rows with a weight that is read once: runtime/device/cuda/linear.cuh, linear_swiglu.cuh, head_argmax.cuh, over product.cuh. A lane reads 16
 * bytes of a row of the weight, which are 8 k of a tensor-core operand; 8 rows of x are the columns of one product.
 */

import type { OpName } from "../../ir/ops.js";
import type { Count } from "../cuda-launch.js";
import { ONE } from "../cuda-launch.js";
import { type AnyKernel, type KernelParams, numberParam, type Tunable } from "../kernel-def.js";
import type { View } from "../view.js";
import { BF16_ROWS, type CudaEntry, ceilDiv, defineCuda, F32_ROWS } from "./define.js";

/** Rows of x that share one read of the weight: 8 in each tensor-core product. */
interface RowTiles {
  readonly suffix?: string;
  readonly tokenTiles: number;
  readonly mostRows?: number;
}

const ROW_TILES: readonly RowTiles[] = [
  { tokenTiles: 1, mostRows: 8 },
  { suffix: "x16", tokenTiles: 2, mostRows: 16 },
  { suffix: "x32", tokenTiles: 4 },
];

/** Multiprocessors of an H100: grids of blocks that take tiles in turns are some times as large. */
export const MULTIPROCESSORS = 132;

const K_BLOCK = 32;

/** A tile of 16 rows, or of 8 where that leaves multiprocessors without one. */
function tileRows(n: number): number {
  return ceilDiv(n, 16) < MULTIPROCESSORS ? 8 : 16;
}

function usualWarps(k: number): number {
  return Math.max(1, Math.min(8, 2 ** Math.floor(Math.log2(Math.max(1, k / K_BLOCK)))));
}

function usualDepth(k: number, warps: number): number {
  const blocks = ceilDiv(ceilDiv(k, K_BLOCK), warps);
  return Math.min(4, blocks);
}

/** Registers hold the sums of all row tiles beside the blocks in flight. */
function tilingTunables({ tokenTiles }: RowTiles): { readonly warps: Tunable; readonly depth: Tunable; readonly tileRows: Tunable } {
  const many = tokenTiles > 2;
  return {
    warps: { name: "warps", values: () => [4, 8, 16], default: (params) => usualWarps(numberParam(params, "k")) },
    depth: {
      name: "depth",
      values: () => [2, 4, 8],
      default: (params) => Math.min(many ? 2 : 4, usualDepth(numberParam(params, "k"), usualWarps(numberParam(params, "k")))),
    },
    tileRows: { name: "tile_rows", values: () => [8, 16], default: (params) => (many ? 16 : tileRows(numberParam(params, "n"))) },
  };
}

function tilingOf(tiles: RowTiles, names: readonly ("tileRows" | "warps" | "depth")[]): readonly Tunable[] {
  const all = tilingTunables(tiles);
  return names.map((name) => all[name]);
}

function refuseSizes(params: KernelParams): string | undefined {
  const k = numberParam(params, "k");
  return k % 8 === 0 ? undefined : `rows of ${k} are no multiple of 16 bytes`;
}

function productView(params: KernelParams, tokenTiles: number): View {
  return {
    k: numberParam(params, "k"),
    x: params.x as string,
    bias: params.bias as boolean,
    warps: numberParam(params, "warps"),
    depth: numberParam(params, "depth"),
    token_tiles: tokenTiles,
  };
}

function threadsOf(params: KernelParams): number {
  return 32 * numberParam(params, "warps");
}

function variants(op: OpName, entry: (tiles: RowTiles) => Omit<CudaEntry, "suffix" | "mostRows">): readonly AnyKernel[] {
  return ROW_TILES.map((tiles) => {
    const { suffix, mostRows } = tiles;
    return defineCuda(op, {
      ...entry(tiles),
      ...(suffix === undefined ? {} : { suffix }),
      ...(mostRows === undefined ? {} : { mostRows }),
      refuse: (params) => refuseSizes(params) ?? entry(tiles).refuse?.(params),
    });
  });
}

function blocks(constant: number): readonly [Count, Count, Count] {
  return [{ constant }, ONE, ONE];
}

const linear = variants("linear", (tiles) => ({
  name: "linear",
  weights: { weight: BF16_ROWS, bias: F32_ROWS },
  tunables: tilingOf(tiles, ["tileRows", "warps", "depth"]),
  launch: (params) => ({
    threads: threadsOf(params),
    grid: blocks(ceilDiv(numberParam(params, "n"), numberParam(params, "tile_rows"))),
    sharedBytes: 0,
  }),
  view: (params) => ({
    ...productView(params, tiles.tokenTiles),
    n: numberParam(params, "n"),
    out: params.out as string,
    tile_rows: numberParam(params, "tile_rows"),
  }),
}));

const linearSwiglu = variants("linear_swiglu", (tiles) => ({
  name: "linear_swiglu",
  weights: { weight: BF16_ROWS, bias: F32_ROWS },
  tunables: tilingOf(tiles, ["warps", "depth"]),
  refuse: (params) => (numberParam(params, "n") % 16 === 0 ? undefined : "a width that is no multiple of 8"),
  launch: (params) => ({ threads: threadsOf(params), grid: blocks(numberParam(params, "n") / 16), sharedBytes: 0 }),
  view: (params) => ({
    ...productView(params, tiles.tokenTiles),
    m: numberParam(params, "n") / 2,
    group: numberParam(params, "group"),
    out: params.out as string,
  }),
}));

/** Blocks of the head, each of which leaves its best of each row. */
function headBlocks(params: KernelParams): number {
  return Math.min(2 * MULTIPROCESSORS, ceilDiv(numberParam(params, "n"), 16));
}

/** A value and an id for each row and block: `head_argmax_workspace`, which the template compares. */
function headWorkspace(params: KernelParams, rows: number): number {
  return rows * headBlocks(params) * 8;
}

const headArgmax = variants("head_argmax", (tiles) => ({
  name: "head_argmax",
  weights: { weight: BF16_ROWS, bias: F32_ROWS },
  tunables: tilingOf(tiles, ["warps", "depth"]),
  workspace: headWorkspace,
  launch: (params) => ({ threads: threadsOf(params), grid: blocks(headBlocks(params)), sharedBytes: 0 }),
  view: (params) => ({
    ...productView(params, tiles.tokenTiles),
    n: numberParam(params, "n"),
    blocks: headBlocks(params),
    workspace_of_7: headWorkspace(params, 7),
  }),
}));

export const CUDA_MATMUL_KERNELS: readonly AnyKernel[] = [...linear, ...linearSwiglu, ...headArgmax];
