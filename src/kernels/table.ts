/** The table of kernels: which there are for each op and target, the default first. A kernel is found by its op and name alone, so names may come again for other ops. */

import { bug } from "../diagnostics.js";
import type { OpName } from "../ir/ops.js";
import type { Target } from "../toolchain/arch.js";
import { CPU_KERNELS } from "./cpu-table.js";
import { CUDA_KERNELS } from "./cuda/table.js";
import type { AnyKernel } from "./kernel-def.js";
import { STEPS } from "./steps.js";

export const KERNELS: readonly AnyKernel[] = [...CPU_KERNELS, ...CUDA_KERNELS];

/** What measured rows may be about: kernels, and the choices above them. */
export const CHOICES: readonly AnyKernel[] = [...KERNELS, ...STEPS];

export function kernelsFor(op: OpName, target: Target): readonly AnyKernel[] {
  return KERNELS.filter((kernel) => kernel.op === op && kernel.target === target);
}

/** Whether a kernel of that name is in Triton; names of other versions are not. */
export function isTriton(op: string, name: string): boolean {
  return KERNELS.some((kernel) => kernel.op === op && kernel.name === name && kernel.language === "triton");
}

export function kernelByName(op: string, name: string): AnyKernel {
  const kernel = KERNELS.find((entry) => entry.op === op && entry.name === name);
  if (!kernel) throw bug(`there is no kernel ${name} for ${op}`);
  return kernel;
}
