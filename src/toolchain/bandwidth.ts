/** How fast this machine reads memory, or its GPU copies its own, measured by small native programs that are built once and cached. */

import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { Diagnostic } from "../diagnostics.js";
import { archFlags, bestArch, readCpuFlags } from "./arch.js";
import { Cache } from "./cache.js";
import { findCompiler } from "./compiler.js";
import { compileUnits, link, type Unit } from "./cxx.js";

const RUNTIME = fileURLToPath(new URL("../../runtime/", import.meta.url));

/** Bytes per second that `threads` threads read together, the best of a few passes over far more than the caches hold. */
export async function measureBandwidth(threads = availableParallelism()): Promise<number> {
  const { stdout } = await execa(await bandwidthProgram(), [String(threads)], { timeout: 60_000 });
  return (JSON.parse(stdout) as { bytesPerSecond: number }).bytesPerSecond;
}

export interface CopyBandwidth {
  /** Read and written together. */
  readonly bytesPerSecond: number;
  /** Clocks of the multiprocessors and of the memory meanwhile; 0 where NVIDIA's management library does not say. */
  readonly megahertz: number;
  readonly memoryMegahertz: number;
}

/** Of copies within the memory of the first GPU. */
export async function measureCopyBandwidth(): Promise<CopyBandwidth> {
  const { exitCode, stdout, stderr } = await execa(await copyProgram(), { timeout: 60_000, reject: false });
  if (exitCode === 0) return JSON.parse(stdout) as CopyBandwidth;
  throw new Diagnostic({
    code: "gpu-unavailable",
    kind: "environment",
    message: stderr.trim(),
    place: "the first GPU",
    hint: "`ernie-compile doctor` says what this machine has",
  });
}

async function bandwidthProgram(): Promise<string> {
  const level = bestArch(readCpuFlags());
  const flags = ["-O3", "-pthread", ...(level ? archFlags(level) : [])];
  return await buildTool("bandwidth", [{ source: "tools/bandwidth.cpp", flags }]);
}

async function copyProgram(): Promise<string> {
  const sources = ["tools/copy_bandwidth.cpp", "src/cuda/driver.cpp"];
  return await buildTool(
    "copy-bandwidth",
    sources.map((source) => ({ source, flags: ["-O2"] })),
  );
}

async function buildTool(label: string, units: readonly Unit[]): Promise<string> {
  const compiler = await findCompiler();
  const cache = new Cache();
  const objects = await compileUnits(units, { compiler, cache, root: RUNTIME, includeDirs: [".", "src"] });
  return (await link({ compiler, cache, kind: "program", label, objects })).path;
}
