/** Mixture of experts: runtime/device/cuda/moe_router.cuh, moe_ffn.cuh. The chosen experts are found on the device, and each is read once for all its rows. moe-many.ts has those of many rows. */

import { cFloat } from "../common.js";
import { ONE, perRows } from "../cuda-launch.js";
import { type AnyKernel, bytesOf, dtypeParam, type KernelDef, type KernelParams, numberParam } from "../kernel-def.js";
import { MOE_KERNELS } from "../moe.js";
import type { View } from "../view.js";
import { clusterFor } from "./attention.js";
import { BF16_ROWS, ceilDiv, defineCuda, F32_ROWS } from "./define.js";
import { moeFfnMany, moeRouterMany } from "./moe-many.js";
import { MULTIPROCESSORS, type Tiling, tilingFor } from "./tiling.js";

const ROUTER_WARPS = 8;
const CPU_ROUTER = MOE_KERNELS.find(({ op }) => op === "moe_router") as unknown as KernelDef<"moe_router">;
/** Blocks that share out what experts have to do. */
const BLOCKS = 2 * MULTIPROCESSORS;
/** Tokens of one expert that share a read of its weight. */
const TILES = { tokenTiles: 1 } as const;

const size = (name: string) => (params: KernelParams) => numberParam(params, name);
const UP = tilingFor(TILES, { role: "expert", rows: 16, n: size("m"), k: size("hidden"), once: false });
const DOWN = tilingFor(TILES, { role: "expert", rows: 8, n: size("hidden"), k: size("m"), once: false });
const EXPERT = tilingFor(TILES, { role: "expert", rows: 8, n: size("n"), k: size("k"), once: false });

/** The phases' tilings under names of their own. */
function withTunables(tiling: Tiling, params: KernelParams): KernelParams {
  return { ...params, ...Object.fromEntries(tiling.tunables.map(({ name, default: value }) => [name, value(params)])) };
}

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
  fit: (node, target) => {
    const params = CPU_ROUTER.fit(node, target);
    return typeof params === "string" ? params : { ...params, cluster: clusterFor(target.arch) };
  },
  launch: (params) => {
    const cluster = numberParam(params, "cluster");
    return { threads: 32 * ROUTER_WARPS, grid: [{ constant: cluster }, perRows(1), ONE], sharedBytes: 0, cluster };
  },
  view: (params) => ({
    x: params.x as string,
    gate: params.gate_dtype as string,
    experts: numberParam(params, "experts"),
    hidden: numberParam(params, "hidden"),
    chosen: numberParam(params, "chosen"),
    norm_min: cFloat(numberParam(params, "norm_min")),
    correction: params.correction as boolean,
    cluster: numberParam(params, "cluster"),
    warps: ROUTER_WARPS,
  }),
});

/** The chosen experts' hidden rows, between the two launches. */
function ffnWorkspace(params: KernelParams, rows: number): number {
  return rows * numberParam(params, "chosen") * numberParam(params, "m") * bytesOf(dtypeParam(params, "x"));
}

const moeFfn = defineCuda("moe_ffn", {
  name: "moe_ffn",
  weights: { gate_up: BF16_ROWS, down: BF16_ROWS },
  refuse: (params) =>
    params.x !== "bf16"
      ? `rows of ${params.x}`
      : numberParam(params, "m") % 8 === 0
        ? undefined
        : "experts whose width is no multiple of 8",
  workspace: ffnWorkspace,
  phases: [
    { suffix: "up", args: ["x", "indices", "gate_up", "workspace"] },
    { suffix: "down", args: ["workspace", "indices", "weights", "down", "addend", "out"] },
  ],
  launch: (params, phase) => {
    const tiling = phase === "up" ? UP : DOWN;
    const tiled = withTunables(tiling, params);
    return {
      threads: tiling.threads(tiled),
      grid: [{ constant: phase === "up" ? BLOCKS : ceilDiv(numberParam(params, "hidden"), 8) }, ONE, ONE],
      sharedBytes: tiling.sharedBytes(tiled),
      blocksPerMultiprocessor: Math.min(2, tiling.residents(tiled)),
    };
  },
  view: (params) => ({
    experts: numberParam(params, "experts"),
    hidden: numberParam(params, "hidden"),
    m: numberParam(params, "m"),
    chosen: numberParam(params, "chosen"),
    group: numberParam(params, "group"),
    addend: params.addend as boolean,
    up: tilingView(UP, params),
    down: tilingView(DOWN, params),
  }),
});

function tilingView(tiling: Tiling, params: KernelParams): View {
  const tiled = withTunables(tiling, params);
  const { once: _, ...view } = tiling.view(tiled) as { readonly [name: string]: View[string] };
  return { ...view, shared_bytes: tiling.sharedBytes(tiled) };
}

const expertLinear = defineCuda("expert_linear", {
  name: "expert_linear",
  weights: { weight: BF16_ROWS },
  refuse: (params) => (params.x !== "bf16" ? `rows of ${params.x}` : undefined),
  launch: (params) => {
    const tiled = withTunables(EXPERT, params);
    return {
      threads: EXPERT.threads(tiled),
      grid: [{ constant: BLOCKS }, ONE, ONE],
      sharedBytes: EXPERT.sharedBytes(tiled),
      blocksPerMultiprocessor: 2,
    };
  },
  view: (params) => ({
    out: params.out as string,
    experts: numberParam(params, "experts"),
    n: numberParam(params, "n"),
    k: numberParam(params, "k"),
    choices: numberParam(params, "choices"),
    row_a_choice: params.row_a_choice as boolean,
    tiling: tilingView(EXPERT, params),
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

export const CUDA_MOE_KERNELS: readonly AnyKernel[] = [moeRouterMany, moeRouter, moeFfnMany, moeFfn, expertLinear, moeCombine];
