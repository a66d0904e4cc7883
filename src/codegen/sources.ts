/** The generated sources of a package: one file a kernel, the plan, the build file for people who embed it. Text only; package.ts writes it. */

import { numberParam, type UsedKernel } from "../kernels/kernel-def.js";
import { type ArchLevel, archFlags } from "../toolchain/arch.js";
import { renderTemplate } from "./render.js";

export function kernelPath(name: string): string {
  return `kernels/${name}.cpp`;
}

/** By path within the build folder. */
export function kernelSources(kernels: readonly UsedKernel[]): ReadonlyMap<string, string> {
  return new Map(kernels.map((kernel) => [kernelPath(kernel.name), renderKernel(kernel)]));
}

/** The source of a kernel: its functions, over one set of constants. */
export function renderKernel({ kernel, params, functions }: Pick<UsedKernel, "kernel" | "params" | "functions">): string {
  const args = kernel.args(params).map(({ name, type }, index) => ({ name: name.replace(".", ""), type, index }));
  const times = params.times === undefined ? "" : ` * ${numberParam(params, "times")}`;
  const bodies = functions.map(({ name, rows }) => (rows === undefined ? { name } : { name, row_count: `step.${rows}${times}` }));
  return renderTemplate(`cpu/${kernel.name}`, { args, functions: bodies, ...kernel.view(params) });
}

export function cmakeLists(arch: ArchLevel, flags: { readonly common: readonly string[]; readonly kernel: readonly string[] }): string {
  const kernel = [...flags.kernel, ...archFlags(arch)].filter((flag) => flag !== "-DNDEBUG");
  return renderTemplate("package/CMakeLists", { common_flags: flags.common.join(" "), kernel_flags: kernel.join(";") });
}
