/**
 * What the plan of a GPU package says besides: its functions with block and shared memory, the grid of each launch, tensor maps, the cubins. What the
 * fields mean is in runtime/src/device_plan.hpp.
 */

import { bug } from "../diagnostics.js";
import { clusterFor } from "../kernels/cuda/attention.js";
import { type Count, type CudaLaunch, checkLaunch, rowTimes, type TensorMap } from "../kernels/cuda-launch.js";
import { functionArgs, type KernelFunction, type UsedKernel } from "../kernels/kernel-def.js";
import type { View } from "../kernels/view.js";
import { CUDA_ARCHS, type CudaArch } from "../toolchain/arch.js";
import {
  cudaUnits,
  DRAW_FUNCTION,
  DRAW_THREADS,
  drawSharedBytes,
  SYNTHETIC_FUNCTIONS,
  SYNTHETIC_THREADS,
  tritonUnits,
} from "./cuda-units.js";
import { cudaLaunch } from "./sources.js";

interface DeviceFunction {
  readonly name: string;
  readonly index: number;
  readonly unit: number;
  readonly launch: CudaLaunch;
  /** Undefined for those that no program calls. */
  readonly used?: { readonly kernel: UsedKernel; readonly called: KernelFunction };
}

export interface DeviceTables {
  readonly arch: CudaArch;
  /** One cubin each. */
  readonly units: readonly { readonly name: string }[];
  readonly functions: readonly DeviceFunction[];
  readonly byName: ReadonlyMap<string, DeviceFunction>;
}

const FILL_LAUNCH: CudaLaunch = { threads: SYNTHETIC_THREADS, grid: [{ constant: 1 }, { constant: 1 }, { constant: 1 }], sharedBytes: 0 };

/** The grid depends on the step: the runtime has it. */
function drawLaunch(arch: CudaArch, vocab: number): CudaLaunch {
  return { ...FILL_LAUNCH, threads: DRAW_THREADS, cluster: clusterFor(arch), sharedBytes: drawSharedBytes(arch, vocab) };
}

export function deviceTables(arch: CudaArch, kernels: readonly UsedKernel[], vocab: number, synthetic: boolean): DeviceTables {
  const compiled = cudaUnits(kernels, synthetic);
  const units = [...compiled, ...tritonUnits(kernels)];
  const unitOf = (source: string): number => compiled.findIndex(({ sources }) => sources.some((path) => path === `kernels/${source}.cu`));
  const functions: DeviceFunction[] = [];
  const add = (name: string, source: string, launch: CudaLaunch, used?: DeviceFunction["used"]): void => {
    const unit = launch.triton ? units.findIndex((entry) => entry.name === name) : unitOf(source);
    functions.push({ name, index: functions.length, unit, launch, ...(used ? { used } : {}) });
  };
  for (const kernel of kernels)
    for (const called of kernel.functions) add(called.name, kernel.name, cudaLaunch(kernel, called), { kernel, called });
  add(DRAW_FUNCTION, "draw", drawLaunch(arch, vocab));
  if (synthetic) for (const name of SYNTHETIC_FUNCTIONS) add(name, "synthetic", FILL_LAUNCH);
  return { arch, units, functions, byName: new Map(functions.map((entry) => [entry.name, entry])) };
}

export function deviceView(device: DeviceTables | undefined): View {
  const fill = (index: number): number => device?.byName.get(SYNTHETIC_FUNCTIONS[index] as string)?.index ?? 0;
  const { capability, exact } = device ? CUDA_ARCHS[device.arch] : { capability: [0, 0] as const, exact: false };
  return {
    is_device: device !== undefined,
    device_arch: device?.arch ?? "",
    major: capability[0],
    minor: capability[1],
    exact,
    cubins: (device?.units ?? []).map(({ name }) => ({ cubin: name })),
    cubin_count: device?.units.length ?? 0,
    functions: (device?.functions ?? []).map(({ name, unit, launch }) => ({
      name,
      unit,
      threads: launch.threads,
      shared_bytes: launch.sharedBytes,
      cluster: launch.cluster ?? 1,
      hidden: launch.triton ? 2 : 0,
      resident: launch.resident ?? 0,
    })),
    function_count: device?.functions.length ?? 0,
    fill_f32: fill(0),
    fill_bf16: fill(1),
    draw: device?.byName.get(DRAW_FUNCTION)?.index ?? 0,
  };
}

/** A launch of a program whose steps have at most so many tokens and sequences. */
export function launchView(
  device: DeviceTables | undefined,
  name: string,
  most: { readonly tokens: number; readonly sequences: number },
): View & { readonly maps: readonly View[] } {
  if (!device) return { function: 0, grid: [], maps: [], map_count: 0 };
  const found = device.byName.get(name);
  if (!found?.used) throw bug(`no kernel has a function ${name}`);
  const { kernel, called } = found.used;
  const times = rowTimes(kernel.params);
  const rows = (called.rows === undefined ? most.tokens : most[called.rows]) * times;
  checkLaunch(name, found.launch, { ...most, rows });
  const count = ({ constant, per = 1, of }: Count): View => {
    const counted = of === "rows" ? (called.rows ?? "tokens") : of;
    return { constant, times: of === "rows" ? times : 1, per, of: counted ?? "none" };
  };
  const names = functionArgs(kernel.kernel, kernel.params, called.phase).map((arg) => arg.name);
  const maps = (found.launch.maps ?? []).map((map) => mapView(map, names, rows));
  return { function: found.index, grid: found.launch.grid.map(count), maps, map_count: maps.length };
}

function mapView({ arg, dtype, dims, strides, box, swizzle }: TensorMap, names: readonly string[], rows: number): View {
  const argument = names.indexOf(arg);
  if (argument < 0) throw bug(`a tensor map over ${arg}, which is no argument`);
  return {
    argument,
    dtype,
    rank: dims.length,
    dims: dims.map((dim) => ({ size: typeof dim === "number" ? dim : dim === "rows" ? rows : dim.rowsTimes * rows })),
    strides: strides.map((bytes) => ({ bytes })),
    box: box.map((size) => ({ size })),
    swizzle,
  };
}
