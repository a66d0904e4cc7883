/**
 * Mixture of experts for many rows: runtime/device/cuda/moe_router_many.cuh, which reads the gate once for 16 of them, and moe_prefill.cuh, which sorts
 * rows by expert for grouped products on wgmma. Counts stay on the device.
 */

import { cFloat, joinName } from "../common.js";
import { type CudaLaunch, ONE, perRows, type TensorMap } from "../cuda-launch.js";
import { type KernelDef, type KernelParams, numberParam } from "../kernel-def.js";
import { MOE_KERNELS } from "../moe.js";
import { BF16_ROWS, defineCuda, F32_ROWS } from "./define.js";
import { MULTIPROCESSORS } from "./tiling.js";

/** Up to so many rows the kernels of moe.ts are as fast: the router's reads the gate for each row, the experts' weights come once for 8 of their rows. */
const FEW_ROWS = { router: 128, experts: 64 } as const;

/** `RouterTile` of moe_router_many.cuh. */
const ROUTER = { tokens: 16, rows: 16 + 64, pitch: 64 + 4, stages: 4, threads: 256 } as const;

function routerShared(params: KernelParams): number {
  return (ROUTER.stages * ROUTER.rows * ROUTER.pitch + ROUTER.tokens * numberParam(params, "experts")) * 4;
}

const CPU_ROUTER = MOE_KERNELS.find(({ op }) => op === "moe_router") as unknown as KernelDef<"moe_router">;

export const moeRouterMany = defineCuda("moe_router", {
  name: "moe_router_many",
  file: (params) => joinName(CPU_ROUTER.file(params), "many"),
  leastRows: FEW_ROWS.router + 1,
  // Timed there alone.
  only: "sm_90a",
  worth: { least: 16 },
  order: "sliced-k",
  weights: { gate: F32_ROWS, correction: F32_ROWS },
  refuse: (params) => {
    if (params.x !== "f32") return `reads rows of ${params.x}, expected f32`;
    if (numberParam(params, "experts") > 256) return "more than 256 experts";
    return numberParam(params, "hidden") % 4 === 0 ? undefined : "rows that are no multiple of 4";
  },
  launch: (params) => ({ threads: ROUTER.threads, grid: [perRows(ROUTER.tokens), ONE, ONE], sharedBytes: routerShared(params) }),
  view: (params) => ({
    experts: numberParam(params, "experts"),
    hidden: numberParam(params, "hidden"),
    chosen: numberParam(params, "chosen"),
    norm_min: cFloat(numberParam(params, "norm_min")),
    correction: params.correction as boolean,
    shared_bytes: routerShared(params),
  }),
});

/** `gemm_grouped.cuh`: of a tile, rows of the weight and most rows of x; k of a stage; rows that one copy brings; bytes of results that change places. */
const TILE = { columns: 128, rows: 256, k: 64, box: 16, staging: 2 * 8192 } as const;
/** Two blocks share the rows of x (bench/NOTES-cuda-prefill.md). */
const TILING = { stages: 4, cluster: 2 } as const;
/** `grouped_shared_bytes`, which the template compares. */
const SHARED_BYTES = 1024 + TILING.stages * ((TILE.columns + TILE.rows) * TILE.k * 2 + 16) + TILE.staging;

const THREADS = { sort: 1024, rows: 256, products: 384 } as const;
/** Blocks of what goes over rows: as many as fit. */
const ROW_BLOCKS = 8 * MULTIPROCESSORS;
const CPU_FFN = MOE_KERNELS.find(({ op }) => op === "moe_ffn") as unknown as KernelDef<"moe_ffn">;

type Sizes = { readonly [name in "experts" | "chosen" | "hidden" | "m"]: number };

function sizesOf(params: KernelParams): Sizes {
  const [experts, chosen, hidden, m] = ["experts", "chosen", "hidden", "m"].map((name) => numberParam(params, name));
  return { experts, chosen, hidden, m } as Sizes;
}

type Map = Pick<TensorMap, "dims" | "strides" | "box">;

/** Rows of a matrix [rows, k], so many at once. */
function rowsMap(k: number, rows: TensorMap["dims"][number], boxRows: number): Map {
  return { dims: [k, rows], strides: [2 * k], box: [TILE.k, boxRows] };
}

/** Gate and up in turns of `group` rows: a copy brings 8 rows of gate and the 8 of up that they meet, then the next. */
function gateUpMap({ hidden, m, experts }: Sizes, group: number): Map {
  const row = 2 * hidden;
  return {
    dims: [hidden, 8, 2, group / 8, (experts * m) / group],
    strides: [row, group * row, 8 * row, 2 * group * row],
    box: [TILE.k, 8, 2, group / 8, TILE.columns / (2 * group)],
  };
}

/** A grouped product: sorted rows against the weights of all experts, one below the other. */
function productLaunch(x: string, xMap: Map, weight: string, weightMap: Map): CudaLaunch {
  const map = (arg: string, rest: Map): TensorMap => ({ arg, dtype: "bf16", ...rest, swizzle: 128 });
  return {
    threads: THREADS.products,
    grid: [{ constant: MULTIPROCESSORS }, ONE, ONE],
    sharedBytes: SHARED_BYTES,
    cluster: TILING.cluster,
    maps: [map(x, xMap), map(weight, weightMap)],
  };
}

function launchOf(params: KernelParams, phase: string): CudaLaunch {
  const sizes = sizesOf(params);
  const { experts, chosen, hidden, m } = sizes;
  const choices = { rowsTimes: chosen };
  if (phase === "sort") return { threads: THREADS.sort, grid: [ONE, ONE, ONE], sharedBytes: 0 };
  if (phase === "up") {
    return productLaunch("sorted", rowsMap(hidden, choices, TILE.box), "gate_up", gateUpMap(sizes, numberParam(params, "group")));
  }
  if (phase === "down") {
    return productLaunch("activations", rowsMap(m, choices, TILE.box), "down", rowsMap(m, experts * hidden, TILE.columns));
  }
  return { threads: THREADS.rows, grid: [{ constant: ROW_BLOCKS }, ONE, ONE], sharedBytes: 0 };
}

export const moeFfnMany = defineCuda("moe_ffn", {
  name: "moe_prefill",
  file: (params) => joinName(CPU_FFN.file(params), "sorted"),
  leastRows: FEW_ROWS.experts + 1,
  only: "sm_90a",
  worth: { least: 32 },
  order: "wgmma-k",
  weights: { gate_up: BF16_ROWS, down: BF16_ROWS },
  refuse: (params) => {
    if (params.x !== "bf16") return `rows of ${params.x}`;
    const { experts, hidden, m } = sizesOf(params);
    if (experts > 256) return "more than 256 experts";
    return m % 8 === 0 && hidden % 8 === 0 ? undefined : "a width that is no multiple of 8";
  },
  args: (params) => [
    ...CPU_FFN.args(params).filter(({ name }) => name !== "workspace"),
    { name: "offsets", type: "int32_t" },
    { name: "places", type: "int32_t" },
    { name: "sorted", type: "Bf16" },
    { name: "activations", type: "Bf16" },
    { name: "expert_rows", type: "Bf16" },
  ],
  parts: (params, rows) => {
    const { experts, chosen, hidden, m } = sizesOf(params);
    const choices = rows * chosen;
    return {
      offsets: (experts + 1) * 4,
      places: choices * 4,
      sorted: choices * hidden * 2,
      activations: choices * m * 2,
      expert_rows: choices * hidden * 2,
    };
  },
  phases: [
    { suffix: "sort", args: ["indices", "offsets", "places"] },
    { suffix: "gather", args: ["x", "places", "sorted"] },
    { suffix: "up", args: ["offsets", "sorted", "gate_up", "activations"] },
    { suffix: "down", args: ["offsets", "activations", "down", "expert_rows"] },
    { suffix: "sum", args: ["expert_rows", "places", "weights", "addend", "out"] },
  ],
  launch: launchOf,
  view: (params) => ({
    ...sizesOf(params),
    group: numberParam(params, "group"),
    addend: params.addend as boolean,
    ...TILING,
    shared_bytes: SHARED_BYTES,
    sort_threads: THREADS.sort,
    row_threads: THREADS.rows,
  }),
});
