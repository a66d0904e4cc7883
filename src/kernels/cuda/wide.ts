/**
 * Products of 9 to 64 rows: runtime/device/cuda/wide.cuh, which multiplies with wgmma as gemm.cuh does, but with the weight's rows where that has the rows
 * of x. Hopper only.
 */

import type { OpName } from "../../ir/ops.js";
import { joinName } from "../common.js";
import { type CudaLaunch, ONE, type TensorMap } from "../cuda-launch.js";
import { type AnyKernel, type KernelParams, numberParam } from "../kernel-def.js";
import type { View } from "../view.js";
import { type CudaEntry, ceilDiv, defineCuda } from "./define.js";
import { MULTIPROCESSORS } from "./tiling.js";

/** A warpgroup multiplies, a warp copies. */
const THREADS = 160;
const ROWS = 64;
const BOX_K = 64;
const STAGE_K = 2 * BOX_K;
const PITCH = ROWS + 4;
/** As many as a block's shared memory holds, less what the head needs for its sums. */
const MOST_STAGES = { 16: 10, 32: 8, 64: 6 } as const;
const MOST_CLUSTER = 4;
/** Elements of a weight up to which 16 rows are multiplied better by lanes: a cluster's sum takes longer than what it saves. */
const SHORT_WEIGHT = 4_000_000;

interface WideTiling {
  readonly stages: number;
  readonly cluster: number;
  readonly columns: Columns;
}
/** Rows of x that a product is for. */
type Columns = 16 | 32 | 64;

/**
 * Blocks of a cluster share out k, as many as find a place at once and a power of two (three were slower than two); a block's ring holds all of its k if it can, so that as much of a weight as possible is on its
 * way before the rows are there. What an H100 was fastest with on the shapes of the 0.3B and the 21B-A3B (bench/NOTES-cuda-decode.md).
 */
function tilingOf(params: KernelParams, columns: Columns): WideTiling {
  const [n, k] = [numberParam(params, "n"), numberParam(params, "k")];
  const steps = ceilDiv(k, STAGE_K);
  const places = Math.max(1, Math.min(MOST_CLUSTER, steps, Math.floor(MULTIPROCESSORS / ceilDiv(n, ROWS))));
  const cluster = 2 ** Math.floor(Math.log2(places));
  return { cluster, stages: Math.min(MOST_STAGES[columns], ceilDiv(steps, cluster)), columns };
}

/** `wide_shared_bytes`, which the template compares. */
function sharedBytes({ stages, columns }: WideTiling): number {
  return 1024 + stages * (2 * STAGE_K * (ROWS + columns) + 16);
}

/** `wide_head_shared_bytes`: sums have a place of their own. */
function headSharedBytes(tiling: WideTiling): number {
  return sharedBytes(tiling) + 4 * PITCH * tiling.columns;
}

/** Multiprocessors have shared memory for so many blocks. */
function residents(bytes: number): number {
  return Math.max(1, Math.min(2, Math.floor((228 * 1024) / (bytes + 1024))));
}

function launchOf(params: KernelParams, { cluster, columns }: WideTiling, blocks: number, bytes: number): CudaLaunch {
  const k = numberParam(params, "k");
  const map = (arg: string, rows: number | "rows", box: number): TensorMap => ({
    arg,
    dtype: "bf16",
    dims: [k, rows],
    strides: [2 * k],
    box: [BOX_K, box],
    swizzle: 128,
  });
  return {
    threads: THREADS,
    grid: [{ constant: blocks }, ONE, ONE],
    sharedBytes: bytes,
    blocksPerMultiprocessor: residents(bytes),
    ...(cluster > 1 ? { cluster } : {}),
    maps: [map("x", "rows", columns), map("weight", numberParam(params, "n"), ROWS)],
  };
}

type Base<K extends OpName> = Omit<CudaEntry<K>, "suffix" | "mostRows">;

function wide<K extends OpName>(
  base: Base<K>,
  columns: Columns,
  refuse: (params: KernelParams) => string | undefined,
): Omit<CudaEntry<K>, "launch" | "view"> {
  const { tunables: _, launch: __, view: ___, constraint: ____, footprint: _____, ...entry } = base;
  return {
    ...entry,
    suffix: columns === 64 ? "wide" : `wide${columns}`,
    mostRows: columns,
    only: "sm_90a",
    worth: { least: columns === 16 ? 9 : columns / 2 + 1 },
    order: "by-bucket",
    refuse: (params) => (params.norm ? "a norm in front" : refuse(params)),
    file: (params) => joinName((base.file as NonNullable<typeof base.file>)(params)),
  };
}

function productView(params: KernelParams, tiling: WideTiling, bytes: number): View {
  return {
    n: numberParam(params, "n"),
    k: numberParam(params, "k"),
    x: params.x as string,
    bias: params.bias as boolean,
    stages: tiling.stages,
    columns: tiling.columns,
    shared_bytes: bytes,
  };
}

function wideProduct<K extends OpName>(op: K, base: Base<K>, columns: Columns): AnyKernel {
  const swiglu = op === "linear_swiglu";
  return defineCuda(op, {
    ...wide(base, columns, (params) =>
      swiglu && ROWS % (2 * numberParam(params, "group")) !== 0
        ? `groups of ${params.group} rows`
        : columns === 16 && numberParam(params, "n") * numberParam(params, "k") < SHORT_WEIGHT
          ? "a short weight"
          : undefined,
    ),
    name: swiglu ? "linear_swiglu" : "linear",
    template: "wide_linear",
    launch: (params) => {
      const tiling = tilingOf(params, columns);
      return launchOf(params, tiling, ceilDiv(numberParam(params, "n"), ROWS) * tiling.cluster, sharedBytes(tiling));
    },
    view: (params): View => {
      const tiling = tilingOf(params, columns);
      return {
        ...productView(params, tiling, sharedBytes(tiling)),
        out: params.out as string,
        residual: params.residual === true,
        swiglu,
        group: typeof params.group === "number" ? params.group : 32,
        cluster: tiling.cluster,
        late: params.late === true,
      };
    },
  });
}

export function wideLinear(base: Base<"linear">, columns: Columns): AnyKernel {
  return wideProduct("linear", base, columns);
}

export function wideProjection(base: Base<"projection">, columns: Columns): AnyKernel {
  return wideProduct("projection", base, columns);
}

export function wideSwiglu(base: Base<"linear_swiglu">, columns: Columns): AnyKernel {
  return wideProduct("linear_swiglu", base, columns);
}

/** Blocks of the head, each of which leaves its best of each row. */
function headBlocks(params: KernelParams): number {
  return Math.min(MULTIPROCESSORS, ceilDiv(numberParam(params, "n"), ROWS));
}

/** `head_argmax_workspace`, which the template compares. */
function headWorkspace(params: KernelParams, rows: number): number {
  return rows * headBlocks(params) * 8;
}

export function wideHead(base: Base<"head_argmax">, columns: Columns): AnyKernel {
  const tiling: WideTiling = { cluster: 1, stages: MOST_STAGES[columns], columns };
  const bytes = headSharedBytes(tiling);
  return defineCuda("head_argmax", {
    ...wide(base, columns, () => undefined),
    name: "head_argmax",
    template: "wide_head",
    workspace: headWorkspace,
    launch: (params) => launchOf(params, tiling, headBlocks(params), bytes),
    view: (params) => ({ ...productView(params, tiling, bytes), blocks: headBlocks(params), workspace_of_7: headWorkspace(params, 7) }),
  });
}
