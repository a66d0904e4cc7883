/** The generated sources of a package: one file a kernel, the plan, the build file for people who embed it. Text only; package.ts writes it. */

import { type ArchLevel, archFlags } from "../toolchain/arch.js";
import type { UsedKernel } from "./kernel-def.js";
import { renderKernel } from "./kernels.js";
import { renderTemplate } from "./render.js";

export function kernelPath(name: string): string {
  return `kernels/${name}.cpp`;
}

/** By path within the build folder. */
export function kernelSources(kernels: readonly UsedKernel[]): ReadonlyMap<string, string> {
  return new Map(kernels.map((kernel) => [kernelPath(kernel.name), renderKernel(kernel)]));
}

export function cmakeLists(arch: ArchLevel, flags: { readonly common: readonly string[]; readonly kernel: readonly string[] }): string {
  const kernel = [...flags.kernel, ...archFlags(arch)].filter((flag) => flag !== "-DNDEBUG");
  return renderTemplate("package/CMakeLists", { common_flags: flags.common.join(" "), kernel_flags: kernel.join(";") });
}
