/**
 * Products of 17 to 64 rows: runtime/device/cuda/wide.cuh, which multiplies with wgmma as gemm.cuh does, but with the weight's rows where that has the rows
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
const STAGE_BYTES = 4 * BOX_K * ROWS * 2;
const SUMS_BYTES = ROWS * (ROWS + 2) * 4;
const MOST_STAGES = 5;
/** Elements of a weight that is over before a ring has gone round: each block then has two stages, and that is all. */
const SHORT = { elements: 3_000_000, steps: 2, mostCluster: 8 } as const;
const MOST_CLUSTER = 4;

interface WideTiling {
  readonly stages: number;
  readonly cluster: number;
}

/**
 * Blocks of a cluster share out k. A long weight has as many as find a place at once, with half of what they copy on the way; what an H100 was fastest with on
 * the shapes of the 0.3B and the 21B-A3B (bench/NOTES-cuda-decode.md).
 */
function tilingOf(params: KernelParams): WideTiling {
  const [n, k] = [numberParam(params, "n"), numberParam(params, "k")];
  const steps = ceilDiv(k, STAGE_K);
  const power = (x: number, most: number): number => Math.min(most, 2 ** Math.floor(Math.log2(Math.max(1, x))));
  if (n * k <= SHORT.elements) {
    const cluster = power(steps / SHORT.steps, SHORT.mostCluster);
    return { cluster, stages: Math.min(MOST_STAGES, ceilDiv(steps, cluster)) };
  }
  const cluster = power(Math.min(steps, MULTIPROCESSORS / ceilDiv(n, ROWS)), MOST_CLUSTER);
  return { cluster, stages: Math.max(1, Math.min(MOST_STAGES, ceilDiv(ceilDiv(steps, cluster), 2))) };
}

/** `wide_shared_bytes`, which the template compares. */
function sharedBytes({ stages }: WideTiling): number {
  return 1024 + stages * (STAGE_BYTES + 16) + SUMS_BYTES;
}

/** Multiprocessors have shared memory for so many blocks. */
function residents(tiling: WideTiling): number {
  return Math.max(1, Math.min(2, Math.floor((227 * 1024) / (sharedBytes(tiling) + 1024))));
}

function launchOf(params: KernelParams, tiling: WideTiling, blocks: number): CudaLaunch {
  const k = numberParam(params, "k");
  const map = (arg: string, rows: number | "rows"): TensorMap => ({
    arg,
    dtype: "bf16",
    dims: [k, rows],
    strides: [2 * k],
    box: [BOX_K, ROWS],
    swizzle: 128,
  });
  return {
    threads: THREADS,
    grid: [{ constant: blocks }, ONE, ONE],
    sharedBytes: sharedBytes(tiling),
    blocksPerMultiprocessor: residents(tiling),
    ...(tiling.cluster > 1 ? { cluster: tiling.cluster } : {}),
    maps: [map("x", "rows"), map("weight", numberParam(params, "n"))],
  };
}

type Base<K extends OpName> = Omit<CudaEntry<K>, "suffix" | "mostRows">;

function wide<K extends OpName>(
  base: Base<K>,
  refuse: (params: KernelParams) => string | undefined,
): Omit<CudaEntry<K>, "launch" | "view"> {
  const { tunables: _, launch: __, view: ___, constraint: ____, footprint: _____, ...entry } = base;
  return {
    ...entry,
    suffix: "wide",
    mostRows: ROWS,
    only: "sm_90a",
    worth: { least: 9 },
    order: "by-bucket",
    refuse: (params) => (params.norm ? "a norm in front" : refuse(params)),
    file: (params) => joinName((base.file as NonNullable<typeof base.file>)(params)),
  };
}

function productView(params: KernelParams, tiling: WideTiling): View {
  return {
    n: numberParam(params, "n"),
    k: numberParam(params, "k"),
    x: params.x as string,
    bias: params.bias as boolean,
    stages: tiling.stages,
    shared_bytes: sharedBytes(tiling),
  };
}

function wideProduct<K extends OpName>(op: K, base: Base<K>): AnyKernel {
  const swiglu = op === "linear_swiglu";
  return defineCuda(op, {
    ...wide(base, (params) => (swiglu && ROWS % (2 * numberParam(params, "group")) !== 0 ? `groups of ${params.group} rows` : undefined)),
    name: swiglu ? "linear_swiglu" : "linear",
    template: "wide_linear",
    launch: (params) => {
      const tiling = tilingOf(params);
      return launchOf(params, tiling, ceilDiv(numberParam(params, "n"), ROWS) * tiling.cluster);
    },
    view: (params): View => {
      const tiling = tilingOf(params);
      return {
        ...productView(params, tiling),
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

export function wideLinear(base: Base<"linear">): AnyKernel {
  return wideProduct("linear", base);
}

export function wideProjection(base: Base<"projection">): AnyKernel {
  return wideProduct("projection", base);
}

export function wideSwiglu(base: Base<"linear_swiglu">): AnyKernel {
  return wideProduct("linear_swiglu", base);
}

/** Blocks of the head, each of which leaves its best of each row. */
function headBlocks(params: KernelParams): number {
  return Math.min(MULTIPROCESSORS, ceilDiv(numberParam(params, "n"), ROWS));
}

/** `head_argmax_workspace`, which the template compares. */
function headWorkspace(params: KernelParams, rows: number): number {
  return rows * headBlocks(params) * 8;
}

export function wideHead(base: Base<"head_argmax">): AnyKernel {
  const tiling: WideTiling = { cluster: 1, stages: MOST_STAGES };
  return defineCuda("head_argmax", {
    ...wide(base, () => undefined),
    name: "head_argmax",
    template: "wide_head",
    workspace: headWorkspace,
    launch: (params) => launchOf(params, tiling, headBlocks(params)),
    view: (params) => ({ ...productView(params, tiling), blocks: headBlocks(params), workspace_of_7: headWorkspace(params, 7) }),
  });
}
