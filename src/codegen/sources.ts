/** The generated sources of a package: one file a kernel, the plan, the build file for people who embed it. Text only; package.ts writes it. */

import { bug } from "../diagnostics.js";
import { tritonType } from "../kernels/cuda/triton.js";
import { functionArgs, type KernelFunction, numberParam, type UsedKernel } from "../kernels/kernel-def.js";
import type { View } from "../kernels/view.js";
import { type ArchLevel, archFlags, isCudaArch } from "../toolchain/arch.js";
import { renderTemplate } from "./render.js";

export function kernelPath({ name, kernel }: Pick<UsedKernel, "name" | "kernel">): string {
  return `kernels/${name}${kernel.language === "triton" ? ".py" : kernel.target === "cuda" ? ".cu" : ".cpp"}`;
}

/** By path within the build folder. */
export function kernelSources(kernels: readonly UsedKernel[]): ReadonlyMap<string, string> {
  return new Map(kernels.map((kernel) => [kernelPath(kernel), renderKernel(kernel)]));
}

type Rendered = Pick<UsedKernel, "name" | "kernel" | "params" | "functions">;

/** The source of a kernel: its functions, over one set of constants. */
export function renderKernel(kernel: Rendered): string {
  if (kernel.kernel.language === "triton") return renderTriton(kernel);
  return kernel.kernel.target === "cuda" ? renderCuda(kernel) : renderCpu(kernel);
}

function renderCpu({ kernel, params, functions }: Rendered): string {
  const args = kernel.args(params).map(({ name, type }, index) => ({ name: name.replace(".", ""), type, index }));
  const times = params.times === undefined ? "" : ` * ${numberParam(params, "times")}`;
  const bodies = functions.map(({ name, rows }) => (rows === undefined ? { name } : { name, row_count: `step.${rows}${times}` }));
  return renderTemplate(`cpu/${kernel.template ?? kernel.name}`, { args, functions: bodies, ...kernel.view(params) });
}

/** Each in a namespace of its own, since several files are compiled as one. */
function renderCuda({ name: file, kernel, params, functions }: Rendered): string {
  const argsOf = (called: KernelFunction) =>
    functionArgs(kernel, params, called.phase).map(({ name, type }) => ({ name: name.replace(".", ""), type }));
  const view = (called: KernelFunction): View => {
    const { threads, blocksPerMultiprocessor: residents = 1 } = cudaLaunch({ kernel, params }, called);
    return { name: called.name, threads, residents, ...(called.rows === undefined ? {} : { rows: called.rows }) };
  };
  const bodies: { [name: string]: readonly View[] } = {};
  if (kernel.phases === undefined) bodies.functions = functions.map(view);
  for (const { suffix } of kernel.phases ?? [])
    bodies[`${suffix}_functions`] = functions
      .filter(({ phase }) => phase?.suffix === suffix)
      .map((called) => ({ ...view(called), args: argsOf(called) }));
  const args = kernel.phases === undefined ? { args: argsOf(functions[0] as KernelFunction) } : {};
  return renderTemplate(`cuda/${kernel.template ?? kernel.name}`, { file, ...args, ...bodies, ...kernel.view(params) });
}

function renderTriton({ kernel, params, functions }: Rendered): string {
  const args = kernel.args(params).map(({ name, type }) => ({ name, triton: tritonType(type) }));
  const bodies = functions.map(({ name, rows }) => ({ name, step_field: rows === "sequences" ? 1 : 0 }));
  return renderTemplate(`cuda/${kernel.template ?? kernel.name}`, { args, functions: bodies, ...kernel.view(params) });
}

export function cudaLaunch({ kernel, params }: Pick<UsedKernel, "kernel" | "params">, { phase }: KernelFunction) {
  if (!kernel.launch) throw bug(`kernel ${kernel.name} does not say how it is launched`);
  return kernel.launch(params, phase?.suffix ?? "");
}

export interface BuildFlags {
  readonly common: readonly string[];
  readonly kernel: readonly string[];
}

export function cmakeLists(arch: ArchLevel, flags: BuildFlags): string {
  const device = isCudaArch(arch);
  const kernel = [...flags.kernel, ...archFlags(arch)].filter((flag) => flag !== "-DNDEBUG");
  return renderTemplate("package/CMakeLists", {
    is_device: device,
    common_flags: flags.common.join(" "),
    kernel_flags: (device ? flags.common : kernel).join(";"),
    nvcc_flags: device ? kernel.join(" ") : "",
  });
}
