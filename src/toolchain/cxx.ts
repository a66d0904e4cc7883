/**
 * Compiles and links C++ through the cache. A unit's key is: who the compiler is, the flags, and the text of the source and of every project
 * header that it includes; paths are no part of it, so a package built in two folders compiles once. System headers count through the compiler's
 * identity. Commands run in the unit's own folder with relative paths, so no path of this machine gets into an object.
 */

import { readFile, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { dirname, join, normalize } from "node:path";
import { execa } from "execa";
import { Diagnostic } from "../diagnostics.js";
import { type Cache, sha256 } from "./cache.js";
import { compileEach } from "./compile-each.js";
import type { Compiler } from "./compiler.js";

export interface Unit {
  /** The source's path within `root`, e.g. `kernels/linear_bf16_f32_n2560_k1024.cpp`; what the unit is called where it has parts. */
  readonly source: string;
  /** Sources that are compiled as one, which reads the headers that they share once. No two may use a name for different things. */
  readonly parts?: readonly string[];
  readonly flags: readonly string[];
}

export interface CompileOptions {
  readonly compiler: Compiler;
  readonly cache: Cache;
  /** Folder that holds the sources; include folders are relative to it. */
  readonly root: string;
  readonly includeDirs: readonly string[];
  /** Include folders outside `root`, e.g. the headers of Node; not part of the sources that a package carries. */
  readonly systemIncludeDirs?: readonly string[];
  readonly onUnit?: (unit: { readonly source: string; readonly cached: boolean; readonly ms: number }) => void;
  readonly signal?: AbortSignal | undefined;
}

export interface ObjectFile {
  readonly source: string;
  readonly path: string;
  readonly key: string;
  readonly sha256: string;
  readonly cached: boolean;
}

export const WARNINGS: readonly string[] = ["-Wall", "-Wextra"];

/**
 * Floating point means the same under every compiler and at every level: no fused multiply-add but where an intrinsic says so, no reassociation.
 * Symbols are hidden but for the C API, or another library of the process could replace the runtime's own.
 */
export const COMMON_FLAGS: readonly string[] = [
  "-std=c++20",
  "-fPIC",
  "-fvisibility=hidden",
  "-fvisibility-inlines-hidden",
  "-ffp-contract=off",
  "-fno-math-errno",
  ...WARNINGS,
];

/** Compiles all units in parallel; objects come in the order of the units. The first failure ends what has not begun. */
export async function compileUnits(units: readonly Unit[], options: CompileOptions): Promise<readonly ObjectFile[]> {
  const scanner = new IncludeScanner(options.root, options.includeDirs, options.systemIncludeDirs ?? []);
  return await compileEach(units, options.signal, (unit, signal) => compileUnit(unit, { ...options, signal }, scanner));
}

async function compileUnit(unit: Unit, options: CompileOptions, scanner: IncludeScanner): Promise<ObjectFile> {
  const { compiler, cache, root, includeDirs, systemIncludeDirs = [], signal } = options;
  const start = performance.now();
  const flags = [...COMMON_FLAGS, ...unit.flags, ...includeDirs.map((dir) => `-I${dir}`)];
  const sources = await scanner.closure(unit.parts ?? [unit.source]);
  const key = sha256(JSON.stringify({ what: "object", compiler: compiler.identity, flags, sources, parts: unit.parts }));
  const hit = await cache.get(key);
  if (hit) {
    options.onUnit?.({ source: unit.source, cached: true, ms: performance.now() - start });
    return { source: unit.source, key, ...hit, cached: true };
  }
  const made = await cache.put(key, "object", unit.source, "object.o", async (out) => {
    const system = systemIncludeDirs.flatMap((dir) => ["-isystem", dir]);
    const input = unit.parts?.map((part) => `#include "${part}"\n`).join("");
    const source = input === undefined ? [unit.source] : ["-x", "c++", "-"];
    await runTool(compiler, [...flags, ...system, "-c", ...source, "-o", out], { cwd: root, what: unit.source, signal, input });
  });
  options.onUnit?.({ source: unit.source, cached: false, ms: performance.now() - start });
  return { source: unit.source, key, ...made, cached: false };
}

/** Assembles a source that takes in other files, whose hashes are `parts`. */
export async function assemble(source: string, parts: readonly string[], options: CompileOptions): Promise<ObjectFile> {
  const { compiler, cache, root, signal } = options;
  const start = performance.now();
  const text = await readFile(join(root, source), "utf8");
  const key = sha256(JSON.stringify({ what: "assembly", compiler: compiler.identity, text, parts }));
  const hit = await cache.get(key);
  const made =
    hit ??
    (await cache.put(key, "object", source, "object.o", (out) =>
      runTool(compiler, ["-c", source, "-I.", "-o", out], { cwd: root, what: source, signal }),
    ));
  options.onUnit?.({ source, cached: hit !== undefined, ms: performance.now() - start });
  return { source, key, ...made, cached: hit !== undefined };
}

export interface LinkOptions {
  readonly compiler: Compiler;
  readonly cache: Cache;
  readonly kind: "library" | "program";
  readonly label: string;
  readonly objects: readonly ObjectFile[];
  readonly flags?: readonly string[];
  /** Text of a linker version script: which symbols a library shows. */
  readonly versionScript?: string;
  readonly signal?: AbortSignal | undefined;
}

/** Links objects, in the order given; returns the path in the cache. */
export async function link(options: LinkOptions): Promise<{ path: string; sha256: string }> {
  const { compiler, cache, kind, label, objects, flags = [], versionScript, signal } = options;
  const key = sha256(
    JSON.stringify({ what: kind, compiler: compiler.identity, flags, versionScript, objects: objects.map((object) => object.sha256) }),
  );
  const hit = await cache.get(key);
  if (hit) return hit;
  return await cache.put(key, kind, label, label, async (out) => {
    const script = join(dirname(out), "exports.map");
    if (versionScript) await writeFile(script, versionScript);
    const args = [
      ...(kind === "library" ? ["-shared"] : []),
      "-Wl,--build-id=none",
      "-Wl,-z,relro",
      "-Wl,-z,now",
      ...(versionScript ? [`-Wl,--version-script=${script}`] : []),
      ...flags,
      ...objects.map((object) => object.path),
      "-pthread",
      "-ldl",
      "-o",
      out,
    ];
    await runTool(compiler, args, { cwd: dirname(out), what: label, signal });
  });
}

/** Compilers of this process that run at once, whatever they work for: one a core. */
const slots = { free: availableParallelism(), waiting: [] as (() => void)[] };

export async function withSlot<T>(work: () => Promise<T>): Promise<T> {
  if (slots.free > 0) slots.free--;
  else await new Promise<void>((resolve) => slots.waiting.push(resolve));
  try {
    return await work();
  } finally {
    const next = slots.waiting.shift();
    if (next) next();
    else slots.free++;
  }
}

interface ToolContext {
  readonly cwd: string;
  readonly what: string;
  readonly signal?: AbortSignal | undefined;
  /** What it reads instead of a file. */
  readonly input?: string | undefined;
}

async function runTool(compiler: Compiler, args: readonly string[], { cwd, what, signal, input = "" }: ToolContext): Promise<void> {
  const result = await withSlot(async () => {
    signal?.throwIfAborted();
    const cancel = signal ? { cancelSignal: signal } : {};
    return await execa(compiler.command, args, {
      cwd,
      input,
      reject: false,
      all: true,
      timeout: 600_000,
      env: { LC_ALL: "C" },
      ...cancel,
    });
  });
  signal?.throwIfAborted();
  if (result.exitCode === 0) return;
  const tail = result.all.trim().split("\n").slice(-15).join("\n");
  const ended = result.signal ? `ended by ${result.signal}` : `exit ${result.exitCode ?? "unknown"}`;
  throw new Diagnostic({
    code: "cxx-failed",
    kind: "environment",
    message: `${compiler.kind} ${compiler.version} did not make ${what} (${result.timedOut ? "past 10 minutes" : ended})${tail ? `\n${tail}` : ""}`,
    place: what,
    hint: /no space left/i.test(tail)
      ? "free some disk space, or move the cache with ERNIE_COMPILE_CACHE"
      : "run `ernie-compile doctor`; another compiler can be named with --cxx or CXX",
  });
}

/** The project headers that a source reaches, by following `#include` lines. Conditional includes count whether taken or not: a key may say too much, never too little. */
export class IncludeScanner {
  readonly #files = new Map<string, Promise<{ hash: string; includes: readonly string[] } | undefined>>();

  constructor(
    private readonly root: string,
    private readonly includeDirs: readonly string[],
    private readonly systemDirs: readonly string[],
  ) {}

  /** `[path within root, hash of the text]` of the sources and all they include, sorted. */
  async closure(sources: readonly string[]): Promise<readonly (readonly [string, string])[]> {
    const seen = new Map<string, string>();
    const visit = async (path: string): Promise<boolean> => {
      if (seen.has(path)) return true;
      const file = await this.#read(path);
      if (!file) return false;
      seen.set(path, file.hash);
      for (const name of file.includes) {
        for (const dir of [dirname(path), ...this.includeDirs, ...this.systemDirs]) {
          if (await visit(normalize(join(dir, name)))) break;
        }
      }
      return true;
    };
    for (const source of sources) {
      if (await visit(normalize(source))) continue;
      throw new Diagnostic({
        code: "source-missing",
        kind: "environment",
        message: `can't read ${source}`,
        place: join(this.root, source),
        hint: "reinstall ernie-compile",
      });
    }
    // Headers outside the root are named by their hash alone: where they are installed must not matter.
    return [...seen].map(([path, hash]) => [path.startsWith("/") ? "" : path, hash] as const).sort((a, b) => (`${a}` < `${b}` ? -1 : 1));
  }

  #read(path: string): Promise<{ hash: string; includes: readonly string[] } | undefined> {
    let file = this.#files.get(path);
    if (!file) {
      const absolute = path.startsWith("/") ? path : join(this.root, path);
      file = readFile(absolute, "utf8").then(
        (text) => ({
          hash: sha256(text),
          includes: [...text.matchAll(/^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]/gm)].map((match) => match[1] as string),
        }),
        () => undefined,
      );
      this.#files.set(path, file);
    }
    return file;
  }
}
