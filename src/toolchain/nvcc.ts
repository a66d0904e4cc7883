/**
 * Finds nvcc, and compiles kernels to machine code (cubins) through the cache. A cubin holds several kernels, since starting the compiler costs more
 * than most of them. Its key is as in cxx.ts: who the compiler is, the flags, and the texts of the sources and all that they include.
 *
 * The assembler reports each kernel's registers, stack and spills: a kernel that keeps anything in local memory fails the build, with its name.
 */

import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { execa } from "execa";
import { Diagnostic } from "../diagnostics.js";
import { archFlags, type CudaArch } from "./arch.js";
import { type Cache, sha256 } from "./cache.js";
import { compileEach } from "./compile-each.js";
import type { Compiler } from "./compiler.js";
import { installedCuda } from "./cuda-install.js";
import { IncludeScanner, withSlot } from "./cxx.js";

export interface Nvcc {
  readonly command: string;
  /** `13.0.88` */
  readonly version: string;
  /** Where it came from: `--cuda`, `CUDA_HOME`, `PATH`, `installed`. */
  readonly found: string;
  readonly identity: string;
}

/** Older ones do not know sm_90a, or C++20. */
export const MIN_NVCC = "12.4";
const INSTALL = "`ernie-compile toolchain install cuda` installs one, or name a toolkit with --cuda or CUDA_HOME";

export interface FindNvccOptions {
  /** Folder of a toolkit (--cuda). */
  readonly cuda?: string | undefined;
  readonly cacheRoot?: string | undefined;
  readonly env?: NodeJS.ProcessEnv;
}

/** `--cuda`, else CUDA_HOME, else PATH, else what our own command installed. */
export async function findNvcc({ cuda, cacheRoot, env = process.env }: FindNvccOptions = {}): Promise<Nvcc> {
  const home = cuda ?? (env.CUDA_HOME || undefined);
  const installed = installedCuda(cacheRoot);
  const candidates =
    home !== undefined
      ? [{ found: cuda === undefined ? "CUDA_HOME" : "--cuda", command: join(home, "bin", "nvcc") }]
      : [
          { found: "PATH", command: "nvcc" },
          ...(installed ? [{ found: "installed", command: join(installed.toolkit, "bin", "nvcc") }] : []),
        ];
  for (const { found, command } of candidates) {
    const nvcc = await probeNvcc(command, found);
    if (!nvcc) continue;
    if (compareVersions(nvcc.version, MIN_NVCC) >= 0) return nvcc;
    throw new Diagnostic({
      code: "nvcc-too-old",
      kind: "environment",
      message: `found nvcc ${nvcc.version}, expected ${MIN_NVCC} or newer`,
      place: `${found}: ${command}`,
      hint: INSTALL,
    });
  }
  throw new Diagnostic({
    code: "nvcc-missing",
    kind: "environment",
    message: home === undefined ? "found no nvcc, which compiles the kernels of a GPU package" : `${candidates[0]?.command} can't be run`,
    place: candidates[0]?.found ?? "PATH",
    hint: INSTALL,
  });
}

async function probeNvcc(command: string, found: string): Promise<Nvcc | undefined> {
  if (command.includes("/") && !existsSync(command)) return undefined;
  const result = await execa(command, ["--version"], { reject: false, timeout: 20_000 });
  const version = /\bV(\d+\.\d+\.\d+)/.exec(result.exitCode === 0 ? result.stdout : "")?.[1];
  return version === undefined ? undefined : { command, version, found, identity: sha256(`nvcc ${version}`) };
}

function compareVersions(a: string, b: string): number {
  const [x, y] = [a.split(".").map(Number), b.split(".").map(Number)];
  for (let i = 0; i < y.length; i++) if ((x[i] ?? 0) !== y[i]) return (x[i] ?? 0) - (y[i] as number);
  return 0;
}

export const NVCC_FLAGS: readonly string[] = [
  "-cubin",
  "-std=c++20",
  "-O3",
  "-Xptxas",
  "-v",
  "--expt-relaxed-constexpr",
  "-Wno-deprecated-gpu-targets",
];

/** Kernels that are compiled together. */
export interface CubinUnit {
  /** `matmul` makes `matmul.cubin`. */
  readonly name: string;
  /** Within `root`. */
  readonly sources: readonly string[];
}

export interface CubinFile {
  readonly name: string;
  readonly path: string;
  readonly sha256: string;
  readonly cached: boolean;
}

export interface NvccOptions {
  readonly nvcc: Nvcc;
  /** nvcc has it read its sources first. */
  readonly host: Compiler;
  readonly cache: Cache;
  readonly root: string;
  readonly arch: CudaArch;
  readonly signal?: AbortSignal | undefined;
  readonly onUnit?: ((unit: { readonly source: string; readonly cached: boolean; readonly ms: number }) => void) | undefined;
}

/** Compiles all units side by side; cubins come in their order. */
export async function compileCubins(units: readonly CubinUnit[], options: NvccOptions): Promise<readonly CubinFile[]> {
  const scanner = new IncludeScanner(options.root, ["."], []);
  return await compileEach(units, options.signal, (unit, signal) => compileCubin(unit, { ...options, signal }, scanner));
}

async function compileCubin({ name, sources }: CubinUnit, options: NvccOptions, scanner: IncludeScanner): Promise<CubinFile> {
  const { nvcc, host, cache, root, arch, signal } = options;
  const start = performance.now();
  const flags = [...NVCC_FLAGS, ...archFlags(arch), "-I."];
  const texts = await scanner.closure(sources);
  const key = sha256(JSON.stringify({ what: "cubin", nvcc: nvcc.identity, host: host.identity, flags, texts, sources }));
  const label = `${name}.cubin`;
  const hit = await cache.get(key);
  if (!hit) signal?.throwIfAborted();
  const made =
    hit ??
    (await cache.put(key, "object", label, label, async (out) => {
      const input = sources.map((source) => `#include "${source}"\n`).join("");
      const cancel = signal ? { cancelSignal: signal } : {};
      // Its temporary files go beside the result, which is removed whatever happens.
      const result = await withSlot(() =>
        execa(nvcc.command, [...flags, "-ccbin", host.command, "-x", "cu", "-", "-o", out], {
          cwd: root,
          input,
          reject: false,
          all: true,
          timeout: 600_000,
          env: { LC_ALL: "C", TMPDIR: dirname(out) },
          ...cancel,
        }),
      );
      signal?.throwIfAborted();
      if (result.exitCode !== 0)
        throw nvccFailed(nvcc, label, result.timedOut ? "past 10 minutes" : `exit ${result.exitCode ?? result.signal}`, result.all);
      checkSpills(result.all, label);
    }));
  options.onUnit?.({ source: label, cached: hit !== undefined, ms: performance.now() - start });
  return { name, path: made.path, sha256: made.sha256, cached: hit !== undefined };
}

function nvccFailed(nvcc: Nvcc, label: string, ended: string, output: string): Diagnostic {
  const tail = output
    .split("\n")
    .filter((line) => !/^ptxas info|^ +\d+ bytes stack/.test(line))
    .slice(-20)
    .join("\n")
    .trim();
  return new Diagnostic({
    code: "nvcc-failed",
    kind: "environment",
    message: `nvcc ${nvcc.version} did not make ${label} (${ended})${tail ? `\n${tail}` : ""}`,
    place: label,
    hint: /no space left/i.test(tail)
      ? "free some disk space, or move the cache with ERNIE_COMPILE_CACHE"
      : "run `ernie-compile doctor`; another toolkit can be named with --cuda",
  });
}

export interface KernelUse {
  readonly kernel: string;
  readonly registers: number;
  readonly stackBytes: number;
  readonly spillBytes: number;
}

/** What the assembler says of each kernel. */
export function parseUse(output: string): readonly KernelUse[] {
  const uses: KernelUse[] = [];
  const pattern =
    /Function properties for (\S+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\s+(?:ptxas info\s*:\s*)?(?:Used (\d+) registers)?/g;
  for (const [, kernel = "", stack, stores, loads, registers] of output.matchAll(pattern))
    uses.push({ kernel, registers: Number(registers ?? 0), stackBytes: Number(stack), spillBytes: Number(stores) + Number(loads) });
  return uses;
}

/** Local memory is device memory: a kernel that spills is many times slower than it looks, so it is a mistake in our table. */
function checkSpills(output: string, label: string): void {
  const spilling = parseUse(output).filter(({ stackBytes, spillBytes }) => stackBytes > 0 || spillBytes > 0);
  if (spilling.length === 0) return;
  throw new Diagnostic({
    code: "kernel-spills",
    kind: "bug",
    message: spilling.map((use) => `${use.kernel} keeps ${use.stackBytes} bytes of stack and spills ${use.spillBytes}`).join("; "),
    place: label,
    hint: "choose smaller tiles for it in its table entry",
  });
}
