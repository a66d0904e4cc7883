/** How fast this machine reads memory, measured by a small native program that is built once and cached. */

import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { archFlags, bestArch, readCpuFlags } from "./arch.js";
import { Cache } from "./cache.js";
import { findCompiler } from "./compiler.js";
import { compileUnits, link } from "./cxx.js";

const RUNTIME = fileURLToPath(new URL("../../runtime/", import.meta.url));

/** Bytes per second that `threads` threads read together, the best of a few passes over far more than the caches hold. */
export async function measureBandwidth(threads = availableParallelism()): Promise<number> {
  const { stdout } = await execa(await bandwidthProgram(), [String(threads)], { timeout: 60_000 });
  return (JSON.parse(stdout) as { bytesPerSecond: number }).bytesPerSecond;
}

async function bandwidthProgram(): Promise<string> {
  const compiler = await findCompiler();
  const cache = new Cache();
  const level = bestArch(readCpuFlags());
  const flags = ["-O3", "-pthread", ...(level ? archFlags(level) : [])];
  const objects = await compileUnits([{ source: "tools/bandwidth.cpp", flags }], { compiler, cache, root: RUNTIME, includeDirs: ["."] });
  return (await link({ compiler, cache, kind: "program", label: "bandwidth", objects })).path;
}
