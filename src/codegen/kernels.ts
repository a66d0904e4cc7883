/** The table of kernels: which there are for each op, the default first. A kernel is found by its op and name alone, so names may come again. */

import { bug } from "../diagnostics.js";
import type { OpName } from "../ir/ops.js";
import { type AnyKernel, numberParam, type UsedKernel } from "./kernel-def.js";
import { ATTENTION_KERNELS } from "./kernels/attention.js";
import { MATMUL_KERNELS } from "./kernels/matmul.js";
import { MOE_KERNELS } from "./kernels/moe.js";
import { ROW_KERNELS } from "./kernels/rows.js";
import { renderTemplate } from "./render.js";

export const KERNELS: readonly AnyKernel[] = [...MATMUL_KERNELS, ...MOE_KERNELS, ...ATTENTION_KERNELS, ...ROW_KERNELS];

export function kernelsFor(op: OpName): readonly AnyKernel[] {
  return KERNELS.filter((kernel) => kernel.op === op);
}

export function kernelByName(op: string, name: string): AnyKernel {
  const kernel = KERNELS.find((entry) => entry.op === op && entry.name === name);
  if (!kernel) throw bug(`there is no kernel ${name} for ${op}`);
  return kernel;
}

/** The source of a kernel: its functions, over one set of constants. */
export function renderKernel({ kernel, params, functions }: Pick<UsedKernel, "kernel" | "params" | "functions">): string {
  const args = kernel.args(params).map(({ name, type }, index) => ({ name: name.replace(".", ""), type, index }));
  const times = params.times === undefined ? "" : ` * ${numberParam(params, "times")}`;
  const bodies = functions.map(({ name, rows }) => (rows === undefined ? { name } : { name, row_count: `step.${rows}${times}` }));
  return renderTemplate(`cpu/${kernel.name}`, { args, functions: bodies, ...kernel.view(params) });
}
