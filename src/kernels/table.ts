/** The table of kernels: which there are for each op, the default first. A kernel is found by its op and name alone, so names may come again. */

import { bug } from "../diagnostics.js";
import type { OpName } from "../ir/ops.js";
import { ATTENTION_KERNELS } from "./attention.js";
import type { AnyKernel } from "./kernel-def.js";
import { MATMUL_KERNELS } from "./matmul.js";
import { MOE_KERNELS } from "./moe.js";
import { ROW_KERNELS } from "./rows.js";

export const KERNELS: readonly AnyKernel[] = [...MATMUL_KERNELS, ...MOE_KERNELS, ...ATTENTION_KERNELS, ...ROW_KERNELS];

export function kernelsFor(op: OpName): readonly AnyKernel[] {
  return KERNELS.filter((kernel) => kernel.op === op);
}

export function kernelByName(op: string, name: string): AnyKernel {
  const kernel = KERNELS.find((entry) => entry.op === op && entry.name === name);
  if (!kernel) throw bug(`there is no kernel ${name} for ${op}`);
  return kernel;
}
