/** How fast this machine reads memory, and what its GPU can do at most, measured by small native programs that are built once and cached. */

import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { Diagnostic } from "../diagnostics.js";
import { archFlags, bestArch, type CudaArch, readCpuFlags } from "./arch.js";
import { Cache } from "./cache.js";
import { findCompiler } from "./compiler.js";
import { compileUnits, link, type Unit } from "./cxx.js";
import { compileCubins, findNvcc } from "./nvcc.js";

const RUNTIME = fileURLToPath(new URL("../../runtime/", import.meta.url));

/** Bytes per second that `threads` threads read together, the best of a few passes over far more than the caches hold. */
export async function measureBandwidth(threads = availableParallelism()): Promise<number> {
  const { stdout } = await execa(await bandwidthProgram(), [String(threads)], { timeout: 60_000 });
  return (JSON.parse(stdout) as { bytesPerSecond: number }).bytesPerSecond;
}

export interface GpuLimits {
  /** Of copies within its memory, read and written together. */
  readonly bytesPerSecond: number;
  /** Multiplications and additions of bf16 products; 0 where nvcc, which compiles what measures them, is not found. */
  readonly operationsPerSecond: number;
  /** Clocks of the multiprocessors and of the memory meanwhile; 0 where NVIDIA's management library does not say. */
  readonly megahertz: number;
  readonly memoryMegahertz: number;
}

/** Of the first GPU. */
export async function measureGpu(arch: CudaArch): Promise<GpuLimits> {
  const cubin = await limitsCubin(arch);
  const { exitCode, stdout, stderr } = await execa(await limitsProgram(), cubin === undefined ? [] : [cubin], {
    timeout: 60_000,
    reject: false,
  });
  if (exitCode === 0) return JSON.parse(stdout) as GpuLimits;
  throw new Diagnostic({
    code: "gpu-unavailable",
    kind: "environment",
    message: stderr.trim(),
    place: "the first GPU",
    hint: "`ernie-compile doctor` says what this machine has",
  });
}

/** Undefined where no nvcc is found: a package runs without one. */
async function limitsCubin(arch: CudaArch): Promise<string | undefined> {
  const cache = new Cache();
  const nvcc = await findNvcc({ cacheRoot: cache.root }).catch(() => undefined);
  if (nvcc === undefined) return undefined;
  const unit = { name: "gpu_limits", sources: ["tools/gpu_limits.cu"] };
  const [cubin] = await compileCubins([unit], { nvcc, host: await findCompiler(), cache, root: RUNTIME, arch });
  return cubin?.path;
}

async function bandwidthProgram(): Promise<string> {
  const level = bestArch(readCpuFlags());
  const flags = ["-O3", "-pthread", ...(level ? archFlags(level) : [])];
  return await buildTool("bandwidth", [{ source: "tools/bandwidth.cpp", flags }]);
}

async function limitsProgram(): Promise<string> {
  const sources = ["tools/gpu_limits.cpp", "src/cuda/driver.cpp"];
  return await buildTool(
    "gpu-limits",
    sources.map((source) => ({ source, flags: ["-O2"] })),
  );
}

async function buildTool(label: string, units: readonly Unit[]): Promise<string> {
  const compiler = await findCompiler();
  const cache = new Cache();
  const objects = await compileUnits(units, { compiler, cache, root: RUNTIME, includeDirs: [".", "src"] });
  return (await link({ compiler, cache, kind: "program", label, objects })).path;
}
