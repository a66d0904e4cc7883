/** From a task and a variant to what the harness loads: the kernel's own generated source, compiled as a package compiles it. */

import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { renderKernel } from "../codegen/sources.js";
import { bug, Diagnostic } from "../diagnostics.js";
import { kernelFunctions } from "../kernels/kernel-def.js";
import { compilerVersion, projectPath } from "../project.js";
import { archFlags, type CpuArch, type Target } from "../toolchain/arch.js";
import { sha256 } from "../toolchain/cache.js";
import { compileUnits, link } from "../toolchain/cxx.js";
import { KERNEL_FLAGS, type NativeOptions } from "../toolchain/native.js";
import { compileCubins, NVCC_FLAGS, type NvccOptions } from "../toolchain/nvcc.js";
import { compileTriton, findTriton } from "../toolchain/triton.js";
import type { Configuration } from "./space.js";
import { kernelOf, paramsOf, type Task } from "./task.js";

/** Gives the text of a variant's source; a test gives others. */
export type RenderVariant = (task: Task, variant: Configuration) => string;

/** With one door added, by which the harness finds the kernel in its library. */
export function renderVariant(task: Task, variant: Configuration): string {
  const params = paramsOf(task, variant);
  const name = task.kernel.file(params);
  const text = renderKernel({ name, kernel: task.kernel, params, functions: [{ name, rows: "tokens" }] });
  return `${text}
// What the tuner calls.
extern "C" [[gnu::visibility("default")]] void ern_tune_kernel(const ern::Step& step, void* const* args, ern::Team& team) {
  ern::kernels::${name}(step, args, team);
}
`;
}

/** Path of the compiled variant in the cache. */
export async function compileVariant(source: string, arch: CpuArch, options: NativeOptions): Promise<string> {
  const { compiler, cache, signal } = options;
  const dir = await mkdtemp(join(tmpdir(), "ernie-compile-variant-"));
  try {
    // Headers are found beside the source, as in a package.
    await symlink(projectPath("runtime/device"), join(dir, "device"));
    await writeFile(join(dir, "variant.cpp"), source);
    const unit = { source: "variant.cpp", flags: [...KERNEL_FLAGS, ...archFlags(arch)] };
    const objects = await compileUnits([unit], { compiler, cache, signal, root: dir, includeDirs: ["."] });
    return (await link({ compiler, cache, kind: "library", label: "variant.so", objects, signal })).path;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

export function renderCudaVariant(task: Task, variant: Configuration): string {
  const kernel = kernelOf(task, variant);
  const params = paramsOf(task, variant);
  return renderKernel({ name: kernel.file(params), kernel, params, functions: kernelFunctions(kernel, { ...params, rows: "tokens" }) });
}

type CudaCompile = Omit<NvccOptions, "root">;

/** Path of the variant's cubin in the cache. */
export async function compileCudaVariant(source: string, options: CudaCompile): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "ernie-compile-variant-"));
  try {
    await symlink(projectPath("runtime/device"), join(dir, "device"));
    await writeFile(join(dir, "variant.cu"), source);
    return await compileOne({ name: "variant", sources: ["variant.cu"] }, { ...options, root: dir });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

const tritons = new Map<string, ReturnType<typeof findTriton>>();

/** Asked for once: a sweep has many variants. */
function foundTriton(cacheRoot: string): ReturnType<typeof findTriton> {
  const found = tritons.get(cacheRoot) ?? findTriton(cacheRoot);
  tritons.set(cacheRoot, found);
  return found;
}

/** The same of one in Triton, which has one function. */
export async function compileTritonVariant(
  source: string,
  task: Task,
  variant: Configuration,
  { arch, cache, signal }: CudaCompile,
): Promise<string> {
  const kernel = kernelOf(task, variant);
  const params = paramsOf(task, variant);
  const triton = await foundTriton(cache.root);
  if (typeof triton === "string")
    throw new Diagnostic({ code: "triton-missing", kind: "environment", message: triton, place: kernel.name });
  const launch = kernel.launch?.(params, "");
  if (!launch?.triton) throw bug(`${kernel.name} does not say how it is launched`);
  const dir = await mkdtemp(join(tmpdir(), "ernie-compile-variant-"));
  try {
    await writeFile(join(dir, "variant.py"), source);
    const { threads, sharedBytes } = launch;
    const unit = { name: kernel.file(params), source: "variant.py", text: source, threads, sharedBytes, stages: launch.triton.stages };
    const [cubin] = await compileTriton([unit], { triton, cache, signal, arch, root: dir });
    if (!cubin) throw bug(`Triton made nothing of ${unit.name}`);
    return cubin.path;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** What the harness fills weights with. */
export async function compileFill(options: CudaCompile): Promise<string> {
  return await compileOne({ name: "tune_fill", sources: ["tools/tune_fill.cu"] }, { ...options, root: projectPath("runtime") });
}

async function compileOne(unit: { readonly name: string; readonly sources: readonly string[] }, options: NvccOptions): Promise<string> {
  const [cubin] = await compileCubins([unit], options);
  if (!cubin) throw bug(`nvcc made nothing of ${unit.name}`);
  return cubin.path;
}

/** The harness, which is the same for all. */
export async function buildHarness(options: NativeOptions): Promise<string> {
  return await buildProgram("tune", ["tools/tune.cpp"], ["-O3", "-DNDEBUG"], options);
}

export async function buildCudaHarness(options: NativeOptions): Promise<string> {
  return await buildProgram("tune_cuda", ["tools/tune_cuda.cpp", "src/cuda/driver.cpp"], ["-O2", "-DNDEBUG"], options);
}

async function buildProgram(
  label: string,
  sources: readonly string[],
  flags: readonly string[],
  { compiler, cache, signal }: NativeOptions,
) {
  const options = { compiler, cache, signal, root: projectPath("runtime"), includeDirs: ["."] };
  const objects = await compileUnits(
    sources.map((source) => ({ source, flags })),
    options,
  );
  return (await link({ compiler, cache, kind: "program", label, objects, signal })).path;
}

const MEASURED_FROM = {
  cpu: { folders: ["runtime/device", "templates/cpu"], files: /\.(hpp|hbs)$/, flags: KERNEL_FLAGS, process: ["tune.cpp"] },
  cuda: {
    folders: ["runtime/device/cuda", "templates/cuda"],
    files: /\.(cuh|hbs)$/,
    flags: NVCC_FLAGS,
    process: ["tune_cuda.cpp", "tune_cuda_spec.hpp", "tune_fill.cu", "triton_compile.py"],
  },
} as const;

/** Stands for everything that a measurement depends on besides task, variant and device: compilers, flags, kernel sources and templates. */
export async function buildIdentity(compilerIdentity: string, target: Target = "cpu"): Promise<string> {
  const { folders, files, flags, process } = MEASURED_FROM[target];
  const hashes: string[] = [];
  const add = async (path: string): Promise<void> => {
    hashes.push(`${path} ${sha256(await readFile(projectPath(path)))}`);
  };
  for (const folder of folders)
    for (const name of (await readdir(projectPath(folder), { recursive: true })).sort())
      if (files.test(name)) await add(`${folder}/${name}`);
  for (const name of [...process, "tune_numbers.hpp", "tune_process.hpp", "tune_step.mjs"]) await add(`runtime/tools/${name}`);
  return sha256(JSON.stringify([compilerVersion(), compilerIdentity, flags, hashes])).slice(0, 16);
}
