/**
 * The native parts of a package and of the compiler: which sources each is made of, with which flags. How one source is compiled is in cxx.ts.
 *
 * Kernels are compiled for the level of the package, everything else for any x86-64: the runtime must be able to say that this CPU lacks something.
 */

import { readdir } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { projectPath } from "../project.js";
import { type ArchLevel, archFlags, isCudaArch } from "./arch.js";
import type { Cache } from "./cache.js";
import type { Compiler } from "./compiler.js";
import { assemble, type CompileOptions, compileUnits, link, type ObjectFile, type Unit } from "./cxx.js";
import type { CubinFile } from "./nvcc.js";

export type UnitReport = Parameters<NonNullable<CompileOptions["onUnit"]>>[0];

export interface NativeOptions {
  readonly compiler: Compiler;
  readonly cache: Cache;
  readonly onUnit?: ((unit: UnitReport) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export const RUNTIME_FLAGS: readonly string[] = ["-O2", "-DNDEBUG"];
export const KERNEL_FLAGS: readonly string[] = ["-O3", "-DNDEBUG"];
/** A library shows its C API and nothing else, or two models in one process would share what must be apart. */
export const LIBRARY_EXPORTS = "{ global: ern_*; local: *; };\n";
const ADDON_EXPORTS = "{ global: napi_register_module_v1; node_api_module_get_api_version_v1; local: *; };\n";

/**
 * Sources of the runtime that are compiled as one: half of their time is reading the same standard headers. What is not named here stands alone, and
 * CMake builds each alone, so nothing may depend on it.
 */
const TOGETHER: readonly (readonly string[])[] = [
  ["api", "logits_pass", "manifest", "request", "sampler", "scheduler"],
  ["backend", "cpu_executor", "engine", "generation", "kv_pool", "step_inputs"],
  ["cuda/cuda_backend", "cuda/cuda_executor", "cuda/device_weights", "cuda/driver", "cuda/gpu"],
  ["control_groups", "cpu_check", "info", "json", "plan_check", "sha256", "text_config"],
  ["loader", "memory", "packed_file", "sentencepiece", "threads", "weights"],
  ["bpe", "detokenizer", "piece_table", "prefix_matcher", "stop_strings", "tokenizer"],
];

function groupRuntime(sources: readonly string[]): readonly Unit[] {
  const groups = TOGETHER.map((names) => names.map((name) => `src/${name}.cpp`).filter((source) => sources.includes(source)));
  const grouped = new Set(groups.flat());
  const alone = sources.filter((source) => !grouped.has(source)).map((source) => [source]);
  return [...groups, ...alone].flatMap((parts) => {
    const [first, ...more] = parts;
    if (first === undefined) return [];
    if (more.length === 0) return [{ source: first, flags: RUNTIME_FLAGS }];
    return [{ source: `${first} and ${more.length} more`, parts, flags: RUNTIME_FLAGS }];
  });
}

/** Names of the sources in a folder of `root`, sorted. */
async function sourcesIn(root: string, folder: string): Promise<readonly string[]> {
  const names = await readdir(join(root, folder)).catch(() => [] as string[]);
  return names
    .filter((name) => name.endsWith(".cpp"))
    .sort()
    .map((name) => `${folder}/${name}`);
}

/** Objects of the runtime and of the kernels: all of the library but the plan, which is known last. */
export async function compileLibrary(
  root: string,
  kernels: readonly string[],
  arch: ArchLevel,
  options: NativeOptions,
): Promise<readonly ObjectFile[]> {
  const runtime = [...(await sourcesIn(root, "src")), ...(await sourcesIn(root, "src/cuda"))].filter((source) => source !== PLAN_SOURCE);
  const kernelFlags = isCudaArch(arch) ? [] : [...KERNEL_FLAGS, ...archFlags(arch)];
  // The longest first.
  const units: Unit[] = [...groupRuntime(runtime), ...kernels.map((source) => ({ source, flags: kernelFlags }))];
  return await compileUnits(units, compileOptions(root, options));
}

export const CUBIN_ASSEMBLY = "kernels/cubins.S";

/** Machine code of kernels as an object of the library; the files lie where the assembly says. */
export async function embedCubins(root: string, cubins: readonly CubinFile[], options: NativeOptions): Promise<ObjectFile> {
  return await assemble(
    CUBIN_ASSEMBLY,
    cubins.map(({ sha256 }) => sha256),
    { ...compileOptions(root, options) },
  );
}

export const PLAN_SOURCE = "src/plan.cpp";

/** The plan is data: nothing in it gets faster by optimising. */
export async function compilePlan(root: string, options: NativeOptions): Promise<ObjectFile> {
  const [object] = await compileUnits([{ source: PLAN_SOURCE, flags: ["-O0"] }], compileOptions(root, options));
  return object as ObjectFile;
}

export async function linkLibrary(
  objects: readonly ObjectFile[],
  { compiler, cache, signal }: NativeOptions,
): Promise<{ path: string; sha256: string }> {
  const flags = ["-Wl,-soname,libern_model.so", "-Wl,-z,defs", "-Wl,-O1", "-s"];
  return await link({ compiler, cache, kind: "library", label: "libern_model.so", objects, flags, versionScript: LIBRARY_EXPORTS, signal });
}

/** ern_node.node, the same for every model. */
export async function buildAddon(options: NativeOptions): Promise<{ path: string; sha256: string }> {
  const root = projectPath("runtime");
  const require = createRequire(import.meta.url);
  const headers = (require("node-api-headers") as { include_dir: string }).include_dir;
  const units = (await sourcesIn(root, "node")).map((source) => ({ source, flags: RUNTIME_FLAGS }));
  const objects = await compileUnits(units, { ...compileOptions(root, options), systemIncludeDirs: [headers] });
  const { compiler, cache, signal } = options;
  return await link({
    compiler,
    cache,
    kind: "library",
    label: "ern_node.node",
    objects,
    flags: ["-s"],
    versionScript: ADDON_EXPORTS,
    signal,
  });
}

/** ern-pack, which writes weights in the layouts that kernels read. It runs here, not in a package. */
export async function buildPacker(options: NativeOptions): Promise<string> {
  const root = projectPath("runtime");
  const units: Unit[] = [
    { source: "pack/main.cpp", flags: KERNEL_FLAGS },
    { source: "src/json.cpp", flags: RUNTIME_FLAGS },
  ];
  const objects = await compileUnits(units, compileOptions(root, options));
  const { compiler, cache, signal } = options;
  return (await link({ compiler, cache, kind: "program", label: "ern-pack", objects, signal })).path;
}

function compileOptions(root: string, { compiler, cache, onUnit, signal }: NativeOptions): CompileOptions {
  return { compiler, cache, root, includeDirs: ["."], signal, ...(onUnit ? { onUnit } : {}) };
}
