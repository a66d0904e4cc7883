/**
 * How a product of a few rows is cut up: `ProductTiling` in runtime/device/cuda/product.cuh. A block copies 16 (or 8) rows of the weight to shared memory,
 * whole or in parts of `span`; its warps share out the k of a part, and multiply it with up to 8 * tokenTiles rows of x.
 */

import { CUDA_LIMITS } from "../cuda-launch.js";
import type { Footprint, KernelParams, Tunable, TuningPlace } from "../kernel-def.js";
import type { View } from "../view.js";
import { ceilDiv } from "./define.js";

/** Multiprocessors of an H100: grids of blocks that take tiles in turns are some times as large. */
export const MULTIPROCESSORS = 132;

export interface RowTiles {
  readonly suffix?: string;
  /** Of 8 rows of x that share one read of the weight. */
  readonly tokenTiles: number;
  /** Fewer rows than 8 take less shared memory. */
  readonly columns?: number;
  readonly mostRows?: number;
  /** Its warps, or what they add up first, differ from the first one's. */
  readonly otherOrder?: boolean;
}

/** More rows than the last has go round again. */
export const ROW_TILES: readonly RowTiles[] = [
  { suffix: "x1", tokenTiles: 1, columns: 1, mostRows: 1 },
  { tokenTiles: 1, mostRows: 8 },
  { suffix: "x16", tokenTiles: 2, mostRows: 16, otherOrder: true },
  { suffix: "x32", tokenTiles: 4, mostRows: 32, otherOrder: true },
  // With 8 tiles the compiler runs out of registers.
  { suffix: "many", tokenTiles: 4, otherOrder: true },
  // What `deterministic` takes for more rows than 8.
  { suffix: "rounds", tokenTiles: 1 },
];

/** What is known of a product where its tiling is chosen. */
export interface Product {
  /** `swiglu`: rows of gate and up; `head`: blocks go on to their next tile; `expert`: so do they, of one expert after the other. */
  readonly role: "linear" | "swiglu" | "head" | "expert";
  /** Rows of a tile, where they are given. */
  readonly rows?: number;
  readonly n: (params: KernelParams) => number;
  readonly k: (params: KernelParams) => number;
  /** The launch has a block a tile, and no more rows than fit: all of a block's copies are under way at once. */
  readonly once: boolean;
}

export interface Tiling {
  readonly tunables: readonly Tunable[];
  readonly constraint: (params: KernelParams, place: TuningPlace) => boolean;
  readonly footprint: (params: KernelParams, place: TuningPlace) => Footprint;
  readonly threads: (params: KernelParams) => number;
  readonly sharedBytes: (params: KernelParams) => number;
  readonly rows: (params: KernelParams) => number;
  readonly residents: (params: KernelParams) => number;
  readonly view: (params: KernelParams) => View;
}

/** k of one tensor-core step of a warp. */
const K_BLOCK = 32;
const MOST_WARPS = 16;
/** Blocks of x that a thread can keep: `held` of product.cuh. */
const MOST_HELD = 16;
/** Longer rows are taken in parts; with many rows of x, whose norm is taken in shared memory, sooner. */
const PARTS = { few: { longest: 6144, parts: [3072, 2048] }, many: { longest: 2048, parts: [1024] } } as const;
/** Shared memory that a block can have where it is alone. */
function mostShared(params: KernelParams): number {
  return typeof params.shared_kib === "number" ? 1024 * params.shared_kib : CUDA_LIMITS.sharedBytes;
}
/** Shared memory of a multiprocessor that blocks can have, and what one of it takes besides. */
function sharedOf(params: KernelParams): number {
  return 1024 * (typeof params.shared_kib === "number" ? params.shared_kib : 224);
}
const BLOCK_BYTES = 1024;
/** From one row of a stage to the next, more than a multiple of 64, so that neighbouring rows lie in other banks: `stage_pitch` of product.cuh. */
const PITCH_STEP = 64;
/** Elements of a weight from which on its rows are copied as they lie, 8 at a time: what is shorter waits for its last bytes, what is longer for the stream. */
const STREAM = { k: 2048, elements: 6 << 20 };
const PITCH_SHIFT = 32;
/** Bytes of a tile of which no more than two have room. */
const LARGE_TILE = 64 * 1024;
const HEAD_STAGES = 6;
const CROWD_WARPS = 6;
/** Blocks of 32 k that a warp takes of a part: fewer warps have longer sums, more have more to add up. */
const BLOCKS_A_WARP = 8;
/** Of a thread, so that nothing spills: with so many blocks of so many threads a multiprocessor's registers give each no more. */
const REGISTERS = 65_536;

function spanOf(k: number, tokenTiles: number): number {
  const { longest, parts } = PARTS[tokenTiles > 2 ? "many" : "few"];
  return k > longest ? (parts.find((part) => k % part === 0) ?? parts[0]) : k;
}

export function tilingFor(
  { tokenTiles: wanted, columns = 8 }: RowTiles,
  { role, rows: fixedRows, n, k, once: wantsOnce }: Product,
): Tiling {
  // Rows that are normed stay in registers; where not all of them fit, they go round.
  const tilesOf = (params: KernelParams): number => {
    const blocks = ceilDiv(k(params), K_BLOCK * MOST_WARPS);
    // The head has its best of each row in registers too.
    const held = role === "head" ? MOST_HELD / 2 : MOST_HELD;
    return params.norm === true ? Math.min(wanted, 2 ** Math.floor(Math.log2(Math.max(1, held / blocks)))) : wanted;
  };
  const onceOf = (params: KernelParams): boolean => wantsOnce && tilesOf(params) === wanted;
  const span = (params: KernelParams): number => spanOf(k(params), tilesOf(params));
  const parts = (params: KernelParams): number => ceilDiv(k(params), span(params));
  const blocks = (params: KernelParams): number => ceilDiv(span(params), K_BLOCK);
  const usualRows = (params: KernelParams): number => {
    if (fixedRows !== undefined) return fixedRows;
    if (tilesOf(params) > 2) return 16;
    // Large tiles take fewer rounds, and one block's worth of them must fit.
    const large = [48, 32].find(
      (rows) => n(params) % rows === 0 && rows * span(params) * 2 <= sharedOf(params) / 2 && n(params) / rows >= 100,
    );
    if (role === "swiglu") return large !== undefined && n(params) / large <= MULTIPROCESSORS ? large : 16;
    if (role === "head") return 16;
    // With small tiles all blocks are there at once, also beside those of the launch before.
    const few = ceilDiv(n(params), 16) < (32 * span(params) > LARGE_TILE ? 1.5 : 1) * MULTIPROCESSORS;
    return few ? 8 : 16;
  };
  /** More small tiles than two a multiprocessor. */
  const crowded = (params: KernelParams): boolean =>
    tilesOf(params) === 1 && rowsOf(params) === 8 && ceilDiv(n(params), 8) > 2 * MULTIPROCESSORS;
  const rowsOf = (params: KernelParams): number => (typeof params.tile_rows === "number" ? params.tile_rows : usualRows(params));
  const usualWarps = (params: KernelParams): number => {
    const heldBy8 = ceilDiv(k(params), K_BLOCK * 8) * tilesOf(params) <= MOST_HELD;
    if (params.norm === true && !heldBy8) return MOST_WARPS;
    // Three blocks a multiprocessor, of which each thread then has registers for all of x.
    if (role === "linear" && crowded(params) && blocks(params) <= MOST_HELD * CROWD_WARPS) return CROWD_WARPS;
    if (role === "expert") return Math.min(MOST_WARPS, blocks(params), Math.max(4, ceilDiv(blocks(params), BLOCKS_A_WARP)));
    const most = tilesOf(params) > 2 || (tilesOf(params) === 2 && rowsOf(params) > 8) ? 8 : MOST_WARPS;
    return Math.min(most, Math.max(8, ceilDiv(blocks(params), BLOCKS_A_WARP)), blocks(params));
  };
  const warpsOf = (params: KernelParams): number => (typeof params.warps === "number" ? params.warps : usualWarps(params));
  // An H100 streams rows as they lie 3 % faster; with pitches it takes fewer registers (bench/NOTES-cuda-decode.md).
  const usualPitched = (params: KernelParams): number => {
    // Tiles of 8 rows share a multiprocessor with others, and have few registers.
    if (role === "expert") return rowsOf(params) === 8 && columns > 1 ? 1 : 0;
    if (role === "head" && tilesOf(params) === 1) return 0;
    return tilesOf(params) === 1 && !crowded(params) && k(params) >= STREAM.k && n(params) * k(params) >= STREAM.elements ? 0 : 1;
  };
  const pitched = (params: KernelParams): boolean => (typeof params.pitched === "number" ? params.pitched : usualPitched(params)) === 1;
  const pitch = (params: KernelParams): number =>
    pitched(params) ? ceilDiv(span(params), PITCH_STEP) * PITCH_STEP + PITCH_SHIFT : span(params);
  const stageBytes = (params: KernelParams): number => rowsOf(params) * pitch(params) * 2 + 8;
  // `turned_bytes`, `sums_bytes` and the squares of product.cuh.
  const sumsBytes = (params: KernelParams): number => {
    const [warps, tokens] = [warpsOf(params), tilesOf(params) === 1 ? columns : 8 * tilesOf(params)];
    const buffers = tilesOf(params) === 1 && !onceOf(params) ? 2 : 1;
    const sums = buffers * warps * rowsOf(params) * (tokens + 1) * 4;
    const each = ceilDiv(span(params), K_BLOCK * warps);
    const turned = params.norm === true ? warps * tokens * (each * K_BLOCK + 8) * 2 : 0;
    return sums + turned + warps * tokens * 4;
  };
  // With a block a tile all parts are on their way at once; who goes on to its next tile has that on its way too.
  const usualStages = (params: KernelParams): number => {
    const room = Math.floor((sharedOf(params) - BLOCK_BYTES - sumsBytes(params)) / stageBytes(params));
    if (role === "head" && tilesOf(params) === 1) return Math.max(1, Math.min(HEAD_STAGES, room));
    return Math.max(1, Math.min(onceOf(params) ? parts(params) : rowsOf(params) === 16 && tilesOf(params) <= 2 ? 3 : 2, room));
  };
  const tunables: readonly Tunable[] = [
    ...(fixedRows === undefined
      ? [
          {
            name: "tile_rows",
            reorders: true as const,
            summary: "rows of the weight in a tile",
            values: () => [8, 16, 32, 48],
            default: usualRows,
          },
        ]
      : []),
    {
      name: "warps",
      reorders: true,
      summary: "warps of a block, which share out k",
      values: (params) => [4, 6, 8, 10, 12, 16, usualWarps(params)],
      default: usualWarps,
    },
    {
      name: "stages",
      summary: "tiles that are on their way at once",
      values: (params) => [1, 2, 3, 4, 6, usualStages(params)],
      default: usualStages,
    },
    {
      name: "pitched",
      summary: "whether rows of a tile lie apart in shared memory, each a copy of its own",
      values: () => [0, 1],
      default: usualPitched,
    },
  ];
  const threads = (params: KernelParams): number => 32 * warpsOf(params);
  const stagesOf = (params: KernelParams): number => (typeof params.stages === "number" ? params.stages : usualStages(params));
  const sharedBytes = (params: KernelParams): number => stagesOf(params) * stageBytes(params) + sumsBytes(params);
  const residents = (params: KernelParams): number => {
    const few = crowded(params) ? 96 : params.residual === true && rowsOf(params) === 16 ? 88 : 80;
    const perThread = tilesOf(params) > 2 ? 168 : tilesOf(params) > 1 ? 112 : few;
    const byRegisters = Math.floor(REGISTERS / (threads(params) * perThread));
    return Math.max(1, Math.min(4, byRegisters, Math.floor(sharedOf(params) / (sharedBytes(params) + BLOCK_BYTES))));
  };
  // What product.cuh asserts, and no stages or warps that find nothing to do.
  const constraint = (params: KernelParams, { rows }: TuningPlace): boolean => {
    if (tunables.every(({ name, default: value }) => params[name] === undefined || params[name] === value(params))) return true;
    const [tileRows, warps, tiles] = [rowsOf(params), warpsOf(params), tilesOf(params)];
    if (role === "swiglu" && tileRows % 16 !== 0) return false;
    if (tileRows > n(params) || warps > blocks(params)) return false;
    if (params.norm === true && parts(params) * ceilDiv(span(params), K_BLOCK * warps) * tiles > MOST_HELD) return false;
    // The head has its best of each row there besides.
    if (sharedBytes(params) + (role === "head" ? tileRows * tiles * 64 : 0) > mostShared(params)) return false;
    const rounds = role === "head" || role === "expert" ? Number.POSITIVE_INFINITY : onceOf(params) ? 1 : ceilDiv(rows, 8 * tiles);
    return stagesOf(params) <= Math.max(parts(params) * rounds, onceOf(params) ? 1 : usualStages(params));
  };
  return {
    tunables,
    constraint,
    footprint: (params, { rows }) => ({
      cacheBytes: sharedBytes(params),
      residents: residents(params),
      blocks: ceilDiv(n(params), rowsOf(params)),
      commonBytes: rows * k(params) * (params.x === "f32" ? 4 : 2),
      steps:
        ceilDiv(rows, 8 * tilesOf(params)) *
          parts(params) *
          ceilDiv(span(params), K_BLOCK * warpsOf(params)) *
          tilesOf(params) *
          ceilDiv(rowsOf(params), 16) +
        warpsOf(params),
    }),
    threads,
    rows: rowsOf,
    residents,
    sharedBytes,
    view: (params) => ({
      tile_rows: rowsOf(params),
      warps: warpsOf(params),
      span: span(params) === k(params) ? 0 : span(params),
      stages: stagesOf(params),
      token_tiles: tilesOf(params),
      once: onceOf(params),
      residents: residents(params),
      columns: tilesOf(params) === 1 ? columns : 8,
      pitched: pitched(params),
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
