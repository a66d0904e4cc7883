/** How a GPU launches a kernel, as its entry says it and as the runtime evaluates it (runtime/src/device_plan.hpp). */

import { bug } from "../diagnostics.js";
import type { KernelParams } from "./kernel-def.js";

/** Blocks along one axis of a grid: `constant * ceil(rows / per)`, or `constant` where no rows are counted. */
export interface Count {
  readonly constant: number;
  readonly per?: number;
  /** `rows`: as the kernel's function counts its rows. */
  readonly of?: "tokens" | "sequences" | "rows";
}

/** A descriptor for the tensor memory accelerator over one argument, passed by value after the pointers. */
export interface TensorMap {
  /** Name of the argument that it describes. */
  readonly arg: string;
  readonly dtype: "bf16" | "f32";
  /** Elements, innermost first; `rows`: the most of the bucket, or so many times that. */
  readonly dims: readonly (number | "rows" | { readonly rowsTimes: number })[];
  /** Bytes from one element to the next along each axis but the innermost. */
  readonly strides: readonly number[];
  readonly box: readonly number[];
  /** Bytes of the swizzle's span; 0: none. */
  readonly swizzle: 0 | 32 | 64 | 128;
}

export interface CudaLaunch {
  readonly threads: number;
  readonly grid: readonly [Count, Count, Count];
  /** Dynamic shared memory of a block. */
  readonly sharedBytes: number;
  /** Blocks of a cluster, along x. */
  readonly cluster?: number;
  /** Blocks that one multiprocessor must be able to hold, for `__launch_bounds__`. */
  readonly blocksPerMultiprocessor?: number;
  /** Blocks that wait for one another, so all must run at once: its whole grid, one a multiprocessor. */
  readonly resident?: number;
  readonly maps?: readonly TensorMap[];
  /** Of a kernel in Triton: how deep its loads are pipelined. Such kernels take two pointers more, to memory that none of ours wants. */
  readonly triton?: { readonly stages: number };
  /** int32 counters that are zero before the first launch and that each launch leaves at zero: its argument `counters`. */
  readonly counters?: number;
}

/** What every device that a package may run on allows. */
export const CUDA_LIMITS = { threads: 1024, gridX: 2 ** 31 - 1, gridYZ: 65_535, sharedBytes: 227 * 1024, cluster: 8, maps: 8 } as const;

export const ONE: Count = { constant: 1 };

export function perRows(per: number, constant = 1, of: "tokens" | "sequences" | "rows" = "rows"): Count {
  return { constant, per, of };
}

/** Blocks along an axis with so many of each. */
export function countBlocks({ constant, per = 1, of }: Count, sizes: { readonly [K in "tokens" | "sequences" | "rows"]: number }): number {
  return of === undefined ? constant : constant * Math.ceil(sizes[of] / per);
}

/** An entry of the table that asks for what no device gives is a mistake of ours, found before anything runs. */
export function checkLaunch(name: string, launch: CudaLaunch, sizes: { readonly [K in "tokens" | "sequences" | "rows"]: number }): void {
  const [x, y, z] = launch.grid.map((count) => countBlocks(count, sizes)) as [number, number, number];
  const wrong =
    launch.threads < 1 || launch.threads > CUDA_LIMITS.threads || launch.threads % 32 !== 0
      ? `${launch.threads} threads`
      : x < 1 || x > CUDA_LIMITS.gridX || y < 1 || y > CUDA_LIMITS.gridYZ || z < 1 || z > CUDA_LIMITS.gridYZ
        ? `a grid of ${x} x ${y} x ${z}`
        : launch.sharedBytes < 0 || launch.sharedBytes > CUDA_LIMITS.sharedBytes
          ? `${launch.sharedBytes} bytes of shared memory`
          : (launch.cluster ?? 1) > CUDA_LIMITS.cluster || x % (launch.cluster ?? 1) !== 0
            ? `clusters of ${launch.cluster} in a grid of ${x}`
            : undefined;
  if (wrong !== undefined) throw bug(`kernel ${name} wants ${wrong}`);
}

/** The count of a function's rows, times a constant. */
export function rowTimes(params: KernelParams): number {
  return typeof params.times === "number" ? params.times : 1;
}
