/** Kernels that go over rows and have no matrix: runtime/device/cuda/rms_norm.cuh, elementwise.cuh, argmax.cuh. Their time is the bytes they move. */

import type { OpName } from "../../ir/ops.js";
import { cFloat } from "../common.js";
import { type CudaLaunch, ONE, perRows, rowTimes } from "../cuda-launch.js";
import { type AnyKernel, type KernelParams, numberParam } from "../kernel-def.js";
import type { View } from "../view.js";
import { BF16_ROWS, type CudaEntry, ceilDiv, defineCuda, F32_ROWS } from "./define.js";

const THREADS = 256;
const NORM_WEIGHT = [...BF16_ROWS, ...F32_ROWS];

/** About a group of 4 elements a thread. */
function elementLaunch(params: KernelParams): CudaLaunch {
  const blocksARow = numberParam(params, "width") / 4 / THREADS;
  const grid =
    blocksARow >= 1 ? perRows(1, ceilDiv(numberParam(params, "width"), 4 * THREADS)) : perRows(Math.max(1, Math.floor(1 / blocksARow)));
  return { threads: THREADS, grid: [grid, ONE, ONE], sharedBytes: 0 };
}

function refuseWidth(params: KernelParams): string | undefined {
  const width = numberParam(params, "width");
  return width % 4 === 0 ? undefined : `rows of ${width} are no multiple of 4`;
}

function elementView(params: KernelParams): View {
  const times = rowTimes(params);
  return { x: params.x as string, width: numberParam(params, "width"), is_multiple: times > 1, times };
}

function elementwise(op: OpName, entry: Partial<CudaEntry> & Pick<CudaEntry, "name">): AnyKernel {
  return defineCuda(op, { refuse: refuseWidth, launch: elementLaunch, view: elementView, ...entry });
}

const NORM_LAUNCH: CudaLaunch = { threads: THREADS, grid: [perRows(1), ONE, ONE], sharedBytes: 0 };

function normView(params: KernelParams): View {
  return {
    x: params.x as string,
    width: numberParam(params, "width"),
    weight: params.weight_dtype as string,
    out: params.out as string,
    eps: cFloat(numberParam(params, "eps")),
    threads: THREADS,
  };
}

const rmsNorm = defineCuda("rms_norm", {
  name: "rms_norm",
  weights: { weight: NORM_WEIGHT },
  refuse: refuseWidth,
  launch: () => NORM_LAUNCH,
  view: normView,
});

const addRmsNorm = defineCuda("add_rms_norm", {
  name: "add_rms_norm",
  weights: { weight: NORM_WEIGHT },
  refuse: refuseWidth,
  launch: () => NORM_LAUNCH,
  view: normView,
});

const embedding = elementwise("embedding", {
  name: "embedding",
  weights: { table: BF16_ROWS },
  view: (params) => ({ table: params.table_dtype as string, vocab: numberParam(params, "vocab"), width: numberParam(params, "width") }),
});

const ARGMAX_THREADS = 1024;

const argmax = defineCuda("argmax", {
  name: "argmax",
  args: () => [
    { name: "x", type: "const float" },
    { name: "out", type: "int32_t" },
  ],
  launch: () => ({ threads: ARGMAX_THREADS, grid: [perRows(1), ONE, ONE], sharedBytes: 0 }),
  view: (params) => ({ x: params.x as string, width: numberParam(params, "width"), threads: ARGMAX_THREADS }),
});

const split = defineCuda("split", {
  name: "split",
  refuse: (params) =>
    String(params.sizes)
      .split("_")
      .every((size) => Number(size) % 4 === 0)
      ? undefined
      : "pieces that are no multiple of 4 wide",
  launch: elementLaunch,
  view: (params) => {
    let start = 0;
    const pieces = String(params.sizes)
      .split("_")
      .map(Number)
      .map((size, i) => {
        const piece = { piece: `pieces${i}`, start, size };
        start += size;
        return piece;
      });
    return { x: params.x as string, width: numberParam(params, "width"), pieces };
  },
});

const OUT_VIEW = { view: (params: KernelParams): View => ({ ...elementView(params), out: params.out as string }) };

export const CUDA_ROW_KERNELS: readonly AnyKernel[] = [
  rmsNorm,
  addRmsNorm,
  embedding,
  elementwise("swiglu", { name: "swiglu", ...OUT_VIEW }),
  elementwise("add", { name: "add" }),
  elementwise("cast", { name: "cast", ...OUT_VIEW }),
  argmax,
  elementwise("gather_rows", { name: "gather_rows", view: (params) => ({ x: params.x as string, width: numberParam(params, "width") }) }),
  split,
  elementwise("all_reduce", { name: "copy" }),
  elementwise("all_gather", { name: "copy" }),
];
