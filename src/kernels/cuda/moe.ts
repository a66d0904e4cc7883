/** Mixture of experts: runtime/device/cuda/moe_router.cuh, moe_ffn.cuh. The chosen experts are found on the device, and each is read once for all its rows. moe-many.ts has those of many rows. */

import { cFloat, constType, joinName } from "../common.js";
import { ONE, perRows } from "../cuda-launch.js";
import {
  type AnyKernel,
  type Argument,
  bytesOf,
  dtypeParam,
  type KernelDef,
  type KernelParams,
  numberParam,
  type Tunable,
} from "../kernel-def.js";
import { MOE_KERNELS } from "../moe.js";
import type { View } from "../view.js";
import { clusterFor } from "./attention.js";
import { BF16_ROWS, type CudaEntry, ceilDiv, defineCuda, F32_ROWS } from "./define.js";
import { moeFfnMany, moeRouterMany } from "./moe-many.js";
import { MULTIPROCESSORS, type Tiling, tilingFor } from "./tiling.js";

const ROUTER_WARPS = 8;
const COMBINE_THREADS = 256;
const CPU_FFN = MOE_KERNELS.find(({ op }) => op === "moe_ffn") as unknown as KernelDef<"moe_ffn">;
const CPU_ROUTER = MOE_KERNELS.find(({ op }) => op === "moe_router") as unknown as KernelDef<"moe_router">;

const size = (name: string) => (params: KernelParams) => numberParam(params, name);
const EXPERT = tilingFor({ tokenTiles: 1 }, { role: "expert", rows: 8, n: size("n"), k: size("k"), once: false });

/** Blocks of a kernel whose blocks share out what experts have to do: as many as there is room for. */
function sharingBlocks(tiling: Tiling, params: KernelParams): number {
  return MULTIPROCESSORS * residentsOf(tiling, params);
}
/** Of those that pass over experts; registers leave no room for more. */
const MOST_RESIDENTS = 3;
function residentsOf(tiling: Tiling, params: KernelParams): number {
  return Math.min(MOST_RESIDENTS, tiling.residents(params));
}

/** A phase's tiling, whose tunables have the phase's name before theirs; one that is not said is at its default. */
function withTunables(tiling: Tiling, params: KernelParams, phase?: string): KernelParams {
  const tiled: { [name: string]: KernelParams[string] } = { ...params };
  for (const { name, default: value } of tiling.tunables) tiled[name] = params[`${phase}_${name}`] ?? value(tiled);
  return tiled;
}

interface FfnPhases {
  readonly up: Tiling;
  readonly down: Tiling;
}

function ffnTunables(phases: FfnPhases): readonly Tunable[] {
  return Object.entries(phases).flatMap(([phase, tiling]: [string, Tiling]) =>
    tiling.tunables.map(({ name, summary, values, default: standard, ...rest }) => ({
      ...rest,
      name: `${phase}_${name}`,
      summary: `${summary}, of ${phase}`,
      values: (params: KernelParams) => values(withTunables(tiling, params, phase)),
      default: (params: KernelParams) => {
        const { [name]: _, ...others } = withTunables(tiling, params, phase);
        return standard(others);
      },
    })),
  );
}

const moeRouter = defineCuda("moe_router", {
  name: "moe_router",
  worth: { least: 16, most: 512 },
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

/** How experts are cut up for so many rows. */
interface FfnRows {
  readonly suffix?: string;
  readonly mostRows?: number;
  readonly columns?: number;
  /** Of 8 tokens of one expert, which share a read of its weight. */
  readonly tokenTiles: number;
  /**
   * Second products in runs, a row a choice, which a third launch sums up: a block then reads the hidden rows of its experts alone, not of all. Sums are
   * made in the same order.
   */
  readonly runs: boolean;
  readonly otherOrder?: boolean;
  /** Where it is measured beside the default. */
  readonly worth?: { readonly least: number; readonly most: number };
}

const FFN_ROWS: readonly FfnRows[] = [
  { suffix: "x1", tokenTiles: 1, columns: 1, mostRows: 1, runs: false },
  { tokenTiles: 1, mostRows: 4, runs: false },
  { suffix: "x32", tokenTiles: 1, mostRows: 32, runs: true, worth: { least: 3, most: 32 } },
  { suffix: "many", tokenTiles: 2, runs: true, otherOrder: true, worth: { least: 17, most: 512 } },
  // What `deterministic` takes for more rows.
  { suffix: "rounds", tokenTiles: 1, runs: true },
];

/** The chosen experts' hidden rows, between the launches; then, in runs, a row of sums a choice. */
function ffnWorkspace(params: KernelParams, rows: number, runs: boolean): number {
  const hiddenRow = numberParam(params, "m") * bytesOf(dtypeParam(params, "x"));
  return rows * numberParam(params, "chosen") * (hiddenRow + (runs ? 4 * numberParam(params, "hidden") : 0));
}

type FfnEntry = CudaEntry<"moe_ffn">;

function ffnEntry({ suffix, mostRows, columns, tokenTiles, runs, otherOrder, worth }: FfnRows): FfnEntry {
  const tiles = { tokenTiles, ...(columns === undefined ? {} : { columns }) };
  const up = tilingFor(tiles, { role: "expert", rows: 16, n: size("m"), k: size("hidden"), once: false });
  const down = tilingFor(tiles, { role: "expert", rows: runs ? 16 : 8, n: size("hidden"), k: size("m"), once: false });
  const phases = { up, down };
  const tunables = ffnTunables(phases);
  return {
    name: "moe_ffn",
    tunables,
    constraint: (params, place) =>
      up.constraint(withTunables(up, params, "up"), place) && down.constraint(withTunables(down, params, "down"), place),
    file: (params) =>
      joinName(
        (CPU_FFN.file as (params: KernelParams) => string)(params),
        tunables
          .filter(({ name, default: value }) => params[name] !== undefined && params[name] !== value(params))
          .map(({ name }) => `${name.replace("_", "")}${params[name]}`)
          .join("_"),
      ),
    ...(suffix === undefined ? {} : { suffix }),
    ...(mostRows === undefined ? {} : { mostRows }),
    ...(otherOrder ? { order: "by-bucket" as const } : {}),
    ...(worth ? { worth } : {}),
    weights: { gate_up: BF16_ROWS, down: BF16_ROWS },
    refuse: (params) =>
      params.x !== "bf16"
        ? `rows of ${params.x}`
        : numberParam(params, "m") % 8 === 0
          ? undefined
          : "experts whose width is no multiple of 8",
    early: ["x", "indices", "weights"],
    workspace: (params, rows) => ffnWorkspace(params, rows, runs),
    phases: [
      { suffix: "up", args: ["x", "indices", "gate_up", "workspace"] },
      ...(runs
        ? [
            { suffix: "down", args: ["workspace", "indices", "down"] },
            { suffix: "sum", args: ["workspace", "indices", "weights", "addend", "out"] },
          ]
        : [{ suffix: "down", args: ["workspace", "indices", "weights", "down", "addend", "out"] }]),
    ],
    launch: (params, phase) => {
      if (phase === "sum") {
        const blocks = ceilDiv(numberParam(params, "hidden"), 4 * COMBINE_THREADS);
        return { threads: COMBINE_THREADS, grid: [perRows(1, blocks), ONE, ONE], sharedBytes: 0 };
      }
      const tiling = phase === "up" ? up : down;
      const tiled = withTunables(tiling, params, phase);
      const shared = phase === "up" || runs;
      return {
        threads: tiling.threads(tiled),
        grid: [{ constant: shared ? sharingBlocks(tiling, tiled) : ceilDiv(numberParam(params, "hidden"), tiling.rows(tiled)) }, ONE, ONE],
        sharedBytes: tiling.sharedBytes(tiled),
        blocksPerMultiprocessor: residentsOf(tiling, tiled),
      };
    },
    view: (params) => ({
      experts: numberParam(params, "experts"),
      hidden: numberParam(params, "hidden"),
      m: numberParam(params, "m"),
      chosen: numberParam(params, "chosen"),
      group: numberParam(params, "group"),
      addend: params.addend as boolean,
      early: params.early === true,
      runs,
      normed: params.eps !== undefined,
      eps: cFloat(typeof params.eps === "number" ? params.eps : 0),
      up: tilingView(up, params, "up"),
      down: tilingView(down, params, "down"),
      ...(runs ? {} : { sum_functions: [] }),
    }),
  };
}

/** With the norm behind it, which the launch that sums up makes: it has a block a row. */
function ffnNormEntry(rows: FfnRows): CudaEntry<"moe_ffn_norm"> {
  const { fit: _, constraint, worth: __, ...entry } = ffnEntry(rows);
  return {
    ...entry,
    name: "moe_ffn_norm",
    template: "moe_ffn",
    order: CPU_FFN.order,
    ...(constraint ? { constraint } : {}),
    share: CPU_FFN.share,
    weights: { ...entry.weights, norm: [...BF16_ROWS, ...F32_ROWS] },
    fit: (node, target) => {
      const { norm: _, ...operands } = node.operands;
      const params = CPU_FFN.fit({ ...node, op: "moe_ffn", operands } as never, target);
      return typeof params === "string" ? params : { ...params, eps: node.attrs.eps };
    },
    cost: CPU_FFN.cost,
    file: (params) => joinName((entry.file as (params: KernelParams) => string)(params), "norm"),
    args: (params) =>
      CPU_FFN.args(params).flatMap((arg): readonly Argument[] =>
        arg.name === "down"
          ? [arg, { name: "norm", type: constType(params.norm_dtype) }]
          : arg.name === "out"
            ? [arg, { name: "normed", type: "Bf16" }]
            : [arg],
      ),
    phases: (entry.phases ?? []).map((phase) =>
      phase.suffix === "sum" ? { suffix: "sum", args: ["workspace", "indices", "weights", "addend", "norm", "out", "normed"] } : phase,
    ),
    launch: (params, phase) =>
      phase === "sum" ? { threads: COMBINE_THREADS, grid: [perRows(1), ONE, ONE], sharedBytes: 0 } : entry.launch(params, phase),
  };
}

function tilingView(tiling: Tiling, params: KernelParams, phase?: string): View {
  const tiled = withTunables(tiling, params, phase);
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
      grid: [{ constant: sharingBlocks(EXPERT, tiled) }, ONE, ONE],
      sharedBytes: EXPERT.sharedBytes(tiled),
      blocksPerMultiprocessor: residentsOf(EXPERT, tiled),
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

const moeCombine = defineCuda("moe_combine", {
  name: "moe_combine",
  launch: (params) => ({
    threads: COMBINE_THREADS,
    grid: [perRows(1, ceilDiv(numberParam(params, "width"), 4 * COMBINE_THREADS)), ONE, ONE],
    sharedBytes: 0,
  }),
  view: (params) => ({ width: numberParam(params, "width"), choices: numberParam(params, "choices") }),
});

export const CUDA_MOE_KERNELS: readonly AnyKernel[] = [
  moeRouterMany,
  moeRouter,
  moeFfnMany,
  ...FFN_ROWS.map((rows) => defineCuda("moe_ffn", ffnEntry(rows))),
  ...FFN_ROWS.filter(({ runs }) => runs).map((rows) => defineCuda("moe_ffn_norm", ffnNormEntry(rows))),
  expertLinear,
  moeCombine,
];
