/**
 * Products of many rows in Triton: templates/cuda/triton_gemm.hbs. They are in the table for what a measurement says of them; without one, gemm.ts and matmul.ts have
 * the defaults.
 */

import type { OpName } from "../../ir/ops.js";
import { joinName } from "../common.js";
import { type CudaLaunch, ONE, perRows } from "../cuda-launch.js";
import { type AnyKernel, type KernelParams, numberParam, type Tunable } from "../kernel-def.js";
import type { View } from "../view.js";
import { type CudaEntry, ceilDiv, defineCuda } from "./define.js";

const TILE_K = 64;
const BAND = 8;
/** Fewer are read from a weight in one go, which products of a few rows are made for. */
const MANY_ROWS = 128;
/** Types as Triton names what pointers point at. */
const TRITON_TYPES: { readonly [type: string]: string } = { float: "*fp32", Bf16: "*bf16" };

interface Tiling {
  readonly tileRows: number;
  readonly columns: number;
  readonly warps: number;
  readonly stages: number;
}

const TUNABLES: readonly Tunable[] = [
  { name: "tile_rows", summary: "rows of x in a tile", values: () => [64, 128], default: () => 128 },
  { name: "columns", summary: "rows of the weight in a tile", values: () => [64, 128, 256], default: () => 128 },
  { name: "warps", summary: "warps of a block", values: () => [4, 8], default: () => 8 },
  { name: "stages", summary: "tiles of k that are on their way at once", values: () => [3, 4, 5], default: () => 4 },
];

function tilingOf(params: KernelParams): Tiling {
  const [tileRows, columns, warps, stages] = TUNABLES.map(({ name, default: value }) =>
    typeof params[name] === "number" ? numberParam(params, name) : value(params),
  ) as [number, number, number, number];
  return { tileRows, columns, warps, stages };
}

/** What Triton's pipeliner takes: all stages of both operands. The compiler's own figure is compared with it. */
function sharedBytes({ tileRows, columns, stages }: Tiling): number {
  return stages * (tileRows + columns) * TILE_K * 2;
}

/** Sums of a thread stay in registers, of which it has 255. */
function isPossible(params: KernelParams): boolean {
  const tiling = tilingOf(params);
  return sharedBytes(tiling) <= 227 * 1024 && (tiling.tileRows * tiling.columns) / (32 * tiling.warps) <= 128;
}

function launchOf(params: KernelParams): CudaLaunch {
  const tiling = tilingOf(params);
  return {
    threads: 32 * tiling.warps,
    grid: [perRows(tiling.tileRows, ceilDiv(numberParam(params, "n"), tiling.columns)), ONE, ONE],
    sharedBytes: sharedBytes(tiling),
    triton: { stages: tiling.stages },
  };
}

type Base<K extends OpName> = Omit<CudaEntry<K>, "suffix" | "mostRows">;

function tritonGemm<K extends OpName>(op: K, base: Base<K>): AnyKernel {
  // It neither starts others late nor fetches before its wait.
  const { late: _, early: __, footprint: ___, ...entry } = base;
  return defineCuda(op, {
    ...entry,
    name: "triton_gemm",
    language: "triton",
    order: "triton-k",
    tunables: TUNABLES,
    constraint: isPossible,
    worth: { least: MANY_ROWS },
    fit: (node, target) => {
      if (target.triton !== true) return "Triton is not there";
      return (base.fit as NonNullable<typeof base.fit>)(node, target);
    },
    refuse: (params) => {
      if (params.norm) return "a norm in front";
      if (params.x !== "bf16") return `x is ${params.x}`;
      const group = params.group;
      // A tile holds whole pairs of groups, whose sizes Triton wants as powers of two.
      return typeof group === "number" && (group & (group - 1)) !== 0 ? `groups of ${group}` : undefined;
    },
    file: (params) => joinName((base.file as NonNullable<typeof base.file>)(withoutTunables(params)), "triton", suffixOf(params)),
    launch: launchOf,
    view: (params): View => {
      const { tileRows, columns } = tilingOf(params);
      const [n, k, group] = [numberParam(params, "n"), numberParam(params, "k"), typeof params.group === "number" ? params.group : 0];
      return {
        summary: group > 0 ? "silu(gate) * up of x . W^T" : `x . W^T${params.bias ? " + bias" : ""}${params.residual ? " + residual" : ""}`,
        n,
        k,
        group,
        width: group > 0 ? n / 2 : n,
        out_columns: columns / 2,
        x: params.x as string,
        out: params.out as string,
        out_f32: params.out === "f32",
        bias: params.bias as boolean,
        residual: params.residual === true,
        ragged: k % TILE_K !== 0,
        tile_rows: tileRows,
        columns,
        column_tiles: ceilDiv(n, columns),
        tile_k: TILE_K,
        band: BAND,
      };
    },
  });
}

/** The CUDA kernel whose name this one starts from has tunables of the same names. */
function withoutTunables(params: KernelParams): KernelParams {
  return Object.fromEntries(Object.entries(params).filter(([name]) => !TUNABLES.some((tunable) => tunable.name === name)));
}

/** Where a tunable is not at its default, the name says so. */
function suffixOf(params: KernelParams): string {
  return TUNABLES.filter(({ name, default: value }) => params[name] !== undefined && params[name] !== value(params))
    .map(({ name }) => `${name.replace("_", "")}${params[name]}`)
    .join("_");
}

/** How Triton names the type of an argument. */
export function tritonType(type: string): string {
  return TRITON_TYPES[type.replace(/^const /, "")] ?? "*i32";
}

export function tritonLinear(base: Base<"linear">): AnyKernel {
  return tritonGemm("linear", base);
}

export function tritonProjection(base: Base<"projection">): AnyKernel {
  return tritonGemm("projection", base);
}

export function tritonSwiglu(base: Base<"linear_swiglu">): AnyKernel {
  return tritonGemm("linear_swiglu", base);
}
