/** All kernels for the CPU. */

import { ATTENTION_KERNELS } from "./attention.js";
import type { AnyKernel } from "./kernel-def.js";
import { MATMUL_KERNELS } from "./matmul.js";
import { MOE_KERNELS } from "./moe.js";
import { ROW_KERNELS } from "./rows.js";

export const CPU_KERNELS: readonly AnyKernel[] = [...MATMUL_KERNELS, ...MOE_KERNELS, ...ATTENTION_KERNELS, ...ROW_KERNELS];
