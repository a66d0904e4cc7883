/** What measures on this machine: its CPU, or its GPU. Shared by `tune` and `tune worker`. */

import { Diagnostic } from "../diagnostics.js";
import { peakBytes, peakOperations } from "../passes/lower/cost.js";
import { type ArchLevel, type CpuArch, type CudaArch, isCudaArch, missingFlags, readCpuFlags } from "../toolchain/arch.js";
import { measureBandwidth } from "../toolchain/bandwidth.js";
import { Cache } from "../toolchain/cache.js";
import { findCompiler } from "../toolchain/compiler.js";
import type { NativeOptions } from "../toolchain/native.js";
import { findNvcc } from "../toolchain/nvcc.js";
import type { Backend } from "../tune/backend.js";
import { describeMachine, deviceClass } from "../tune/device.js";
import { describeGpu } from "../tune/gpu.js";
import { JoinedBackend } from "../tune/joined.js";
import { hostMemory, type LocalBackend } from "../tune/local.js";
import { compilersBeside, openLocal } from "../tune/local-cpu.js";
import { COMPILERS, openCuda } from "../tune/local-cuda.js";
import { localSteps, type StepOptions } from "../tune/local-steps.js";
import type { Machine, TaskRecord } from "../tune/records.js";
import { StepBackend } from "../tune/step-backend.js";
import { findCudaTables, findTables } from "../tune/tables.js";
import { Turns } from "../tune/turns.js";
import { buildCudaHarness, buildIdentity } from "../tune/variants.js";
import { interruptSignal } from "./interrupt.js";

export interface PlatformFlags {
  threads?: number | undefined;
  cxx?: string;
  cuda?: string;
}

export interface TunePlatform {
  readonly machine: Machine;
  /** Its class. */
  readonly device: string;
  readonly build: string;
  /** Tasks that are under way at once, so that compilers never wait for the device. */
  readonly parallel?: number;
  readonly limits: () => Promise<TaskRecord["limits"]>;
  readonly open: () => Promise<Backend>;
}

/** On a GPU compiling takes longer than measuring: so many tasks ask for variants that all cores have some to compile. */
const CUDA_TASKS = 8;

export async function tunePlatform(arch: ArchLevel, flags: PlatformFlags): Promise<TunePlatform> {
  const native = { compiler: await findCompiler(flags.cxx), cache: new Cache(), signal: interruptSignal() };
  return isCudaArch(arch) ? await cudaPlatform(arch, native, flags) : await cpuPlatform(arch, native, flags);
}

async function cpuPlatform(arch: CpuArch, native: NativeOptions, { threads, cxx }: PlatformFlags): Promise<TunePlatform> {
  const machine = describeMachine(arch, threads);
  const device = deviceClass(arch, machine.threads);
  return {
    machine,
    device,
    build: await buildIdentity(native.compiler.identity),
    limits: async () => ({
      bytesPerSecond: await measureBandwidth(machine.threads),
      operationsPerSecond: machine.threads * peakOperations(arch),
    }),
    open: async () => {
      checkRuns(arch);
      const turns = new Turns(compilersBeside(machine.threads));
      const kernels = await openLocal({ arch, machine, native, turns });
      return withSteps(kernels, turns, {
        ...stepOptions(native, cxx),
        arch,
        threads: machine.threads,
        memory: hostMemory,
        rows: findTables(device)?.table.rows ?? [],
      });
    },
  };
}

async function cudaPlatform(arch: CudaArch, native: NativeOptions, { cuda, cxx }: PlatformFlags): Promise<TunePlatform> {
  const nvcc = await findNvcc({ cuda });
  const { machine, device, free } = await describeGpu(await buildCudaHarness(native), arch);
  return {
    machine,
    device,
    build: await buildIdentity(nvcc.identity, "cuda"),
    parallel: CUDA_TASKS,
    limits: async () => ({ bytesPerSecond: peakBytes(arch), operationsPerSecond: peakOperations(arch) }),
    open: async () => {
      const turns = new Turns(COMPILERS);
      const kernels = await openCuda({ arch, machine, native, nvcc, memory: 0.6 * free, turns });
      return withSteps(kernels, turns, {
        ...stepOptions(native, cxx),
        cuda,
        arch,
        threads: machine.threads,
        memory: () => 0.8 * free,
        rows: findCudaTables(arch)?.table.rows ?? [],
      });
    },
  };
}

function stepOptions({ cache, signal }: NativeOptions, cxx: string | undefined) {
  return { cacheRoot: cache.root, signal, cxx };
}

async function withSteps(kernels: LocalBackend, turns: Turns, options: Omit<StepOptions, "pause">): Promise<Backend> {
  return new JoinedBackend(kernels, new StepBackend(await localSteps({ ...options, pause: () => kernels.pause() }), turns));
}

/** A level that this CPU lacks can be built for, but not measured. */
function checkRuns(arch: CpuArch): void {
  const missing = missingFlags(arch, readCpuFlags());
  if (missing.length === 0) return;
  throw new Diagnostic({
    code: "tune-arch",
    kind: "environment",
    message: `this CPU lacks ${missing.join(", ")}, which ${arch} needs`,
    place: "--arch",
    hint: "tune on a machine that has them, or for a lower level",
  });
}
