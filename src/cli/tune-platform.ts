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
import { openLocal } from "../tune/local-cpu.js";
import { openCuda } from "../tune/local-cuda.js";
import type { Machine, TaskRecord } from "../tune/records.js";
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

async function cpuPlatform(arch: CpuArch, native: NativeOptions, { threads }: PlatformFlags): Promise<TunePlatform> {
  const machine = describeMachine(arch, threads);
  return {
    machine,
    device: deviceClass(arch, machine.threads),
    build: await buildIdentity(native.compiler.identity),
    limits: async () => ({
      bytesPerSecond: await measureBandwidth(machine.threads),
      operationsPerSecond: machine.threads * peakOperations(arch),
    }),
    open: async () => {
      checkRuns(arch);
      return openLocal({ arch, machine, native });
    },
  };
}

async function cudaPlatform(arch: CudaArch, native: NativeOptions, { cuda }: PlatformFlags): Promise<TunePlatform> {
  const nvcc = await findNvcc({ cuda });
  const { machine, device, free } = await describeGpu(await buildCudaHarness(native), arch);
  return {
    machine,
    device,
    build: await buildIdentity(nvcc.identity, "cuda"),
    parallel: CUDA_TASKS,
    limits: async () => ({ bytesPerSecond: peakBytes(arch), operationsPerSecond: peakOperations(arch) }),
    open: () => openCuda({ arch, machine, native, nvcc, memory: 0.6 * free }),
  };
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
