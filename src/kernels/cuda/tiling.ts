/**
 * How a product of a few rows is cut up: `ProductTiling` in runtime/device/cuda/product.cuh. A block takes 16 (or 8) rows of the weight, its warps share out
 * k in spans, and each warp copies its spans to stages in shared memory before it multiplies them with up to 8 * tokenTiles rows.
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
  { suffix: "x64", tokenTiles: 8, mostRows: 64 },
  { suffix: "many", tokenTiles: 8 },
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

const MOST_WARPS = 8;
const MOST_STAGES = 4;
/** Registers of a multiprocessor, and about how many a thread takes: with one tile of rows, and more for each other. */
const REGISTERS = 65_536;

function registersOf(tokenTiles: number): number {
  return tokenTiles === 1 ? 80 : 96 + 16 * tokenTiles;
}

function spanOf(k: number): number {
  return k >= 256 ? 256 : 64;
}

export function tilingFor({ tokenTiles }: RowTiles, { rows: fixedRows, n, k, once }: Product): Tiling {
  const spans = (params: KernelParams): number => ceilDiv(k(params), spanOf(k(params)));
  const usualStages = (params: KernelParams): number => Math.min(MOST_STAGES, ceilDiv(spans(params), MOST_WARPS));
  const usualWarps = (params: KernelParams): number => Math.min(MOST_WARPS, ceilDiv(spans(params), usualStages(params)));
  const usualRows = (params: KernelParams): number => fixedRows ?? (ceilDiv(n(params), 16) < MULTIPROCESSORS ? 8 : 16);
  const tunables: readonly Tunable[] = [
    ...(fixedRows === undefined ? [{ name: "tile_rows", values: () => [8, 16], default: usualRows }] : []),
    { name: "warps", values: () => [2, 4, 5, 6, 8], default: usualWarps },
    // A head or an expert goes on to its next tile, which may be on its way while this one is multiplied.
    { name: "stages", values: () => [1, 2, 3, 4], default: (params) => (once ? usualStages(params) : Math.max(2, usualStages(params))) },
  ];
  const rows = (params: KernelParams): number => fixedRows ?? numberParam(params, "tile_rows");
  const threads = (params: KernelParams): number => 32 * numberParam(params, "warps");
  const residents = (params: KernelParams): number =>
    Math.max(1, Math.min(6, Math.floor(REGISTERS / (threads(params) * registersOf(tokenTiles)))));
  return {
    tunables,
    threads,
    rows,
    residents,
    // `shared_bytes`, which the template compares.
    sharedBytes: (params) => {
      const [warps, stages] = [numberParam(params, "warps"), numberParam(params, "stages")];
      const tokens = 8 * tokenTiles;
      const buffers = tokenTiles === 1 ? 2 : 1;
      const stageBytes = rows(params) * (spanOf(k(params)) + 32) * 2 + 8;
      return warps * stages * stageBytes + buffers * warps * (rows(params) * (tokens + 1) + tokens) * 4;
    },
    view: (params) => ({
      tile_rows: rows(params),
      warps: numberParam(params, "warps"),
      span: spanOf(k(params)),
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
