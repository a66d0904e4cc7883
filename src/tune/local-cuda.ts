/**
 * Variants on a GPU of this machine: each is a cubin, and one process has the device. It serves one measurement after the other until a variant spoils it;
 * then that variant is recorded with the driver's word for it, and the next measurement starts another.
 */

import { availableParallelism } from "node:os";
import { join } from "node:path";
import { bug } from "../diagnostics.js";
import { checkLaunch, countBlocks, type TensorMap } from "../kernels/cuda-launch.js";
import { functionArgs, type KernelParams, kernelFunctions } from "../kernels/kernel-def.js";
import { CUDA_ARCHS, type CudaArch } from "../toolchain/arch.js";
import type { NativeOptions } from "../toolchain/native.js";
import type { Nvcc } from "../toolchain/nvcc.js";
import { makeFolder } from "../weights/file.js";
import { Harness } from "./harness.js";
import { argNames, type Built, LocalBackend, type Platform } from "./local.js";
import type { Machine } from "./records.js";
import { kernelOf, paramsOf, type Task } from "./task.js";
import type { Turns } from "./turns.js";
import {
  buildCudaHarness,
  compileCudaVariant,
  compileFill,
  compileTritonVariant,
  type RenderVariant,
  renderCudaVariant,
} from "./variants.js";

export interface CudaOptions {
  readonly arch: CudaArch;
  readonly machine: Machine;
  readonly native: NativeOptions;
  readonly nvcc: Nvcc;
  /** Of the device's memory, what weights may take. */
  readonly memory: number;
  /** Of one command to a process: more than the slowest variant takes. */
  readonly deadlineMs?: number;
  readonly render?: RenderVariant;
  /** With others that use the machine. */
  readonly turns?: Turns;
}

const DEADLINE_MS = 20_000;
/** Cores for the process that has the device, and for this one. */
const OWN_CORES = 2;
export const COMPILERS = Math.max(1, availableParallelism() - OWN_CORES);

export async function openCuda(options: CudaOptions): Promise<LocalBackend> {
  const { arch, machine, native, nvcc, memory, deadlineMs = DEADLINE_MS, render = renderCudaVariant } = options;
  await makeFolder(native.cache.root);
  const cuda = { nvcc, host: native.compiler, cache: native.cache, signal: native.signal, arch };
  const [program, fill] = await Promise.all([buildCudaHarness(native), compileFill(cuda)]);
  let running: Harness | undefined;
  const platform: Platform = {
    machine,
    place: native.cache.root,
    signal: native.signal,
    beside: COMPILERS,
    memory: () => memory,
    source: render,
    compile: (source, task, variant) =>
      kernelOf(task, variant).language === "triton" ? compileTritonVariant(source, task, variant, cuda) : compileCudaVariant(source, cuda),
    blame: ({ code, summary }) =>
      code === "kernel-spills"
        ? { status: "spills", reason: summary }
        : code === "nvcc-failed" || code === "triton-failed" || code === "triton-missing"
          ? { status: "compile", reason: summary }
          : undefined,
    start: async (task, lines, built) => {
      const names = argNames(task, built);
      const spec = [...lines, ...built.flatMap((entry) => launchLines(task, entry, names))];
      running ??= await Harness.serve(program, ["serve", ...capabilityOf(arch), fill, join(native.cache.root, "device.lock")], deadlineMs);
      const harness = running;
      try {
        await harness.open(spec);
      } catch (error) {
        running = undefined;
        await harness.end();
        throw error;
      }
      return harness;
    },
    release: async (harness, failed) => {
      if (!failed && !harness.ended) return;
      running = undefined;
      await harness.end();
    },
    pause: async () => {
      await running?.end();
      running = undefined;
    },
    close: async () => running?.end(),
  };
  return new LocalBackend(platform, options.turns);
}

export function capabilityOf(arch: CudaArch): readonly string[] {
  const { capability, exact } = CUDA_ARCHS[arch];
  return [...capability.map(String), exact ? "1" : "0"];
}

/** Lines of a spec about one variant: its code, and how each of its functions is launched on so many rows. `all`: arguments in the order of the spec. */
function launchLines(task: Task, { variant, path }: Built, all: readonly string[]): readonly string[] {
  const kernel = kernelOf(task, variant);
  const params: KernelParams = { ...paramsOf(task, variant), rows: "tokens" };
  const { rows } = task;
  const sizes = { tokens: rows, sequences: rows, rows };
  const lines = kernelFunctions(kernel, params).flatMap(({ name, phase }) => {
    if (!kernel.launch) return [];
    const launch = kernel.launch(params, phase?.suffix ?? "");
    checkLaunch(name, launch, sizes);
    const args = functionArgs(kernel, params, phase).map((arg) => arg.name);
    const grid = launch.grid.map((count) => countBlocks(count, sizes));
    const places = args.map((arg) => all.indexOf(arg));
    if (places.includes(-1)) throw bug(`${kernel.name} has an argument that the spec lacks`);
    const hidden = Array.from({ length: launch.triton ? 2 : 0 }, () => "-");
    return [
      ["launch", name, launch.threads, launch.sharedBytes, launch.cluster ?? 1, ...grid, ...places, ...hidden].join(" "),
      ...(launch.maps ?? []).map((map) => mapLine(map, args.indexOf(map.arg), rows)),
    ];
  });
  return [`variant ${path}`, ...lines];
}

function mapLine({ dtype, dims, strides, box, swizzle }: TensorMap, place: number, rows: number): string {
  const sizes = dims.map((dim) => (dim === "rows" ? rows : typeof dim === "number" ? dim : dim.rowsTimes * rows));
  return ["map", place, dtype, swizzle, dims.length, ...sizes, ...strides, ...box].join(" ");
}
