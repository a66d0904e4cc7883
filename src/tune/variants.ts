/** From a task and a variant to a library that the harness loads: the kernel's own generated source with one door added, compiled as a package compiles it. */

import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { renderKernel } from "../codegen/sources.js";
import { compilerVersion, projectPath } from "../project.js";
import { archFlags, type CpuArch } from "../toolchain/arch.js";
import { sha256 } from "../toolchain/cache.js";
import { compileUnits, link } from "../toolchain/cxx.js";
import { KERNEL_FLAGS, type NativeOptions } from "../toolchain/native.js";
import type { Configuration } from "./space.js";
import { paramsOf, type Task } from "./task.js";

/** Gives the text of a variant's source; a test gives others. */
export type RenderVariant = (task: Task, variant: Configuration) => string;

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

/** The harness, which is the same for all. */
export async function buildHarness({ compiler, cache, signal }: NativeOptions): Promise<string> {
  const options = { compiler, cache, signal, root: projectPath("runtime"), includeDirs: ["."] };
  const objects = await compileUnits([{ source: "tools/tune.cpp", flags: ["-O3", "-DNDEBUG"] }], options);
  return (await link({ compiler, cache, kind: "program", label: "tune", objects, signal })).path;
}

/** Stands for everything that a measurement depends on besides task, variant and device: compilers, flags, kernel sources and templates. */
export async function buildIdentity(compilerIdentity: string): Promise<string> {
  const hashes: string[] = [];
  for (const folder of ["runtime/device", "templates/cpu"]) {
    for (const name of (await readdir(projectPath(folder), { recursive: true })).sort()) {
      if (!/\.(hpp|hbs)$/.test(name)) continue;
      hashes.push(`${folder}/${name} ${sha256(await readFile(join(projectPath(folder), name)))}`);
    }
  }
  hashes.push(sha256(await readFile(projectPath("runtime/tools/tune.cpp"))));
  return sha256(JSON.stringify([compilerVersion(), compilerIdentity, KERNEL_FLAGS, hashes])).slice(0, 16);
}
