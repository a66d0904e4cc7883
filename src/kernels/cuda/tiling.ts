/**
 * How a product of a few rows is cut up: `ProductTiling` in runtime/device/cuda/product.cuh. A block copies 16 (or 8) rows of the weight to shared memory,
 * whole or in parts of `span`; its warps share out the k of a part, and multiply it with up to 8 * tokenTiles rows of x.
 */

import { type KernelParams, numberParam, type Tunable } from "../kernel-def.js";
import type { View } from "../view.js";
import { ceilDiv } from "./define.js";

/** Multiprocessors of an H100: grids of blocks that take tiles in turns are some times as large. */
export const MULTIPROCESSORS = 132;

export interface RowTiles {
  readonly suffix?: string;
  /** Of 8 rows of x that share one read of the weight. */
  readonly tokenTiles: number;
  readonly mostRows?: number;
}

/** More rows than the last has go round again. */
export const ROW_TILES: readonly RowTiles[] = [
  { tokenTiles: 1, mostRows: 8 },
  { suffix: "x16", tokenTiles: 2, mostRows: 16 },
  { suffix: "x32", tokenTiles: 4, mostRows: 32 },
  // With 8 tiles the compiler runs out of registers.
  { suffix: "many", tokenTiles: 4 },
];

/** What is known of a product where its tiling is chosen. */
export interface Product {
  /** Rows of a tile; undefined: 16, or 8 where that leaves multiprocessors without a tile of the n rows. */
  readonly rows?: number;
  readonly n: (params: KernelParams) => number;
  readonly k: (params: KernelParams) => number;
  /** The launch has a block a tile, and no more rows than fit: all of a block's copies may be under way at once. */
  readonly once: boolean;
}

export interface Tiling {
  readonly tunables: readonly Tunable[];
  readonly threads: (params: KernelParams) => number;
  readonly sharedBytes: (params: KernelParams) => number;
  readonly rows: (params: KernelParams) => number;
  readonly residents: (params: KernelParams) => number;
  readonly view: (params: KernelParams) => View;
}

/** k of one tensor-core step of a warp. */
const K_BLOCK = 32;
const MOST_WARPS = 16;
/** Longer rows are taken in parts. */
const LONGEST_PART = 8192;
const PART = 3072;
/** Of a multiprocessor: registers, and shared memory that blocks can have. */
const REGISTERS = 65_536;
const SHARED_BYTES = 224 * 1024;
/** Parts of x that a thread keeps in registers, for all tiles: `held` of product.cuh. */
const MOST_HELD = 12;

function spanOf(k: number): number {
  return k > LONGEST_PART ? PART : k;
}

export function tilingFor({ tokenTiles }: RowTiles, { rows: fixedRows, n, k, once }: Product): Tiling {
  const rowsOf = (params: KernelParams): number =>
    fixedRows ??
    (typeof params.tile_rows === "number" ? params.tile_rows : ceilDiv(n(params), 16) < MULTIPROCESSORS && tokenTiles <= 2 ? 8 : 16);
  const span = (params: KernelParams): number => spanOf(k(params));
  const parts = (params: KernelParams): number => ceilDiv(k(params), span(params));
  const usualWarps = (params: KernelParams): number => {
    const blocks = ceilDiv(span(params), K_BLOCK);
    return Math.min(tokenTiles > 2 ? 8 : MOST_WARPS, Math.max(ceilDiv(blocks, 8), Math.min(8, blocks)));
  };
  const stageBytes = (params: KernelParams): number => rowsOf(params) * span(params) * 2 + 8;
  // With a block a tile all parts are on their way at once; who goes on to its next tile has that on its way too, for two blocks if they fit.
  const usualStages = (params: KernelParams): number => {
    if (once) return Math.min(parts(params), Math.floor((SHARED_BYTES - 24 * 1024) / stageBytes(params)));
    const forTwo = Math.min(3, Math.floor((SHARED_BYTES / 2 - 16 * 1024) / stageBytes(params)));
    return forTwo >= 2 ? forTwo : Math.max(1, Math.min(2, Math.floor((SHARED_BYTES - 48 * 1024) / stageBytes(params))));
  };
  const tunables: readonly Tunable[] = [
    ...(fixedRows === undefined
      ? [{ name: "tile_rows", summary: "rows of the weight in a tile", values: () => [8, 16], default: rowsOf }]
      : []),
    { name: "warps", summary: "warps of a block, which share out k", values: () => [4, 8, 10, 12, 16], default: usualWarps },
    { name: "stages", summary: "tiles that are on their way at once", values: () => [1, 2, 3, 4], default: usualStages },
  ];
  const threads = (params: KernelParams): number => 32 * numberParam(params, "warps");
  // `shared_bytes`, which the template compares.
  const sharedBytes = (params: KernelParams): number => {
    const [warps, stages] = [numberParam(params, "warps"), numberParam(params, "stages")];
    const tokens = 8 * tokenTiles;
    const buffers = tokenTiles === 1 ? 2 : 1;
    return stages * stageBytes(params) + buffers * warps * (rowsOf(params) * (tokens + 1) + tokens) * 4;
  };
  const residents = (params: KernelParams): number => {
    const held = parts(params) * ceilDiv(span(params), K_BLOCK * numberParam(params, "warps")) * tokenTiles;
    const registers = Math.max(tokenTiles > 2 ? 168 : 0, 28 + 4 * tokenTiles + (held <= MOST_HELD ? 4 * held : 32));
    const byRegisters = Math.floor(REGISTERS / (threads(params) * registers));
    const byShared = Math.floor(SHARED_BYTES / (sharedBytes(params) + 1024));
    return Math.max(1, Math.min(6, byRegisters, byShared));
  };
  return {
    tunables,
    threads,
    rows: rowsOf,
    residents,
    sharedBytes,
    view: (params) => ({
      tile_rows: rowsOf(params),
      warps: numberParam(params, "warps"),
      span: span(params) === k(params) ? 0 : span(params),
      stages: numberParam(params, "stages"),
      token_tiles: tokenTiles,
      once,
      residents: residents(params),
    }),
  };
}

/** Where a tunable is not at its default, the name says so. */
export function tilingSuffix({ tunables }: Tiling, params: KernelParams): string {
  return tunables
    .filter(({ name, default: value }) => params[name] !== undefined && params[name] !== value(params))
    .map(({ name }) => `${name.replace("_", "")}${params[name]}`)
    .join("_");
}
