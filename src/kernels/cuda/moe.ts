/** Mixture of experts: runtime/device/cuda/moe_router.cuh, moe_ffn.cuh. The chosen experts are found on the device, and each is read once for all its rows. */

import { cFloat } from "../common.js";
import { type Count, ONE, perRows } from "../cuda-launch.js";
import { type AnyKernel, bytesOf, dtypeParam, type KernelParams, numberParam } from "../kernel-def.js";
import type { View } from "../view.js";
import { BF16_ROWS, ceilDiv, defineCuda, F32_ROWS } from "./define.js";

const WARPS = 8;
const DEPTH = 2;
/** Rows of a weight in a tile, where they are not 8 of gate and 8 of up. */
const TILE_ROWS = 8;
const ROUTER = { cluster: 8, warps: 8 } as const;
/** Rows of the weight's own tokens that share a read: 8 in each product. */
const TOKEN_TILES = 1;

const TILING: View = { warps: WARPS, depth: DEPTH, token_tiles: TOKEN_TILES };

const moeRouter = defineCuda("moe_router", {
  name: "moe_router",
  weights: { gate: [...F32_ROWS, ...BF16_ROWS], correction: F32_ROWS },
  refuse: (params) =>
    params.x !== "f32"
      ? `reads rows of ${params.x}, expected f32`
      : numberParam(params, "experts") > 256
        ? "more than 256 experts"
        : numberParam(params, "hidden") % 4 === 0
          ? undefined
          : "rows that are no multiple of 4",
  launch: () => ({ threads: 32 * ROUTER.warps, grid: [{ constant: ROUTER.cluster }, perRows(1), ONE], sharedBytes: 0, cluster: ROUTER.cluster }),
  view: (params) => ({
    x: params.x as string,
    gate: params.gate_dtype as string,
    experts: numberParam(params, "experts"),
    hidden: numberParam(params, "hidden"),
    chosen: numberParam(params, "chosen"),
    norm_min: cFloat(numberParam(params, "norm_min")),
    correction: params.correction as boolean,
    ...ROUTER,
  }),
});

/** A block row for each expert that could be in use. */
function expertsInUse(params: KernelParams, choices: string): Count {
  // More rows than experts use no more of them; the kernel looks at 64 tokens at a time.
  return { constant: Math.min(numberParam(params, "experts"), 64 * numberParam(params, choices)) };
}

/** The chosen experts' hidden rows, between the two launches. */
function ffnWorkspace(params: KernelParams, rows: number): number {
  return rows * numberParam(params, "chosen") * numberParam(params, "m") * bytesOf(dtypeParam(params, "x"));
}

const moeFfn = defineCuda("moe_ffn", {
  name: "moe_ffn",
  weights: { gate_up: BF16_ROWS, down: BF16_ROWS },
  refuse: (params) => (params.x !== "bf16" ? `rows of ${params.x}` : numberParam(params, "m") % 8 === 0 ? undefined : "experts whose width is no multiple of 8"),
  workspace: ffnWorkspace,
  phases: [
    { suffix: "up", args: ["x", "indices", "gate_up", "workspace"] },
    { suffix: "down", args: ["workspace", "indices", "weights", "down", "addend", "out"] },
  ],
  launch: (params, phase) => ({
    threads: 32 * WARPS,
    grid:
      phase === "up"
        ? [{ constant: numberParam(params, "m") / 8 }, expertsInUse(params, "chosen"), ONE]
        : [{ constant: ceilDiv(numberParam(params, "hidden"), TILE_ROWS) }, ONE, ONE],
    sharedBytes: 0,
  }),
  view: (params) => ({
    experts: numberParam(params, "experts"),
    hidden: numberParam(params, "hidden"),
    m: numberParam(params, "m"),
    chosen: numberParam(params, "chosen"),
    group: numberParam(params, "group"),
    addend: params.addend as boolean,
    tile_rows: TILE_ROWS,
    ...TILING,
  }),
});

const expertLinear = defineCuda("expert_linear", {
  name: "expert_linear",
  weights: { weight: BF16_ROWS },
  refuse: (params) => (params.x !== "bf16" ? `rows of ${params.x}` : undefined),
  launch: (params) => ({
    threads: 32 * WARPS,
    grid: [{ constant: ceilDiv(numberParam(params, "n"), TILE_ROWS) }, expertsInUse(params, "choices"), ONE],
    sharedBytes: 0,
  }),
  view: (params) => ({
    out: params.out as string,
    experts: numberParam(params, "experts"),
    n: numberParam(params, "n"),
    k: numberParam(params, "k"),
    choices: numberParam(params, "choices"),
    row_a_choice: params.row_a_choice as boolean,
    tile_rows: TILE_ROWS,
    ...TILING,
  }),
});

const COMBINE_THREADS = 256;

const moeCombine = defineCuda("moe_combine", {
  name: "moe_combine",
  launch: (params) => ({
    threads: COMBINE_THREADS,
    grid: [perRows(1, ceilDiv(numberParam(params, "width"), 4 * COMBINE_THREADS)), ONE, ONE],
    sharedBytes: 0,
  }),
  view: (params) => ({ width: numberParam(params, "width"), choices: numberParam(params, "choices") }),
});

export const CUDA_MOE_KERNELS: readonly AnyKernel[] = [moeRouter, moeFfn, expertLinear, moeCombine];
