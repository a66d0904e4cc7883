/** All kernels for GPUs. */

import type { AnyKernel } from "../kernel-def.js";
import { CUDA_ATTENTION_KERNELS } from "./attention.js";
import { CUDA_MATMUL_KERNELS } from "./matmul.js";
import { CUDA_MOE_KERNELS } from "./moe.js";
import { CUDA_NORM_ROUTER_KERNELS } from "./norm-router.js";
import { normRouterMany } from "./norm-router-many.js";
import { CUDA_ROW_KERNELS } from "./rows.js";

export const CUDA_KERNELS: readonly AnyKernel[] = [
  ...CUDA_MATMUL_KERNELS,
  ...CUDA_MOE_KERNELS,
  normRouterMany,
  ...CUDA_NORM_ROUTER_KERNELS,
  ...CUDA_ATTENTION_KERNELS,
  ...CUDA_ROW_KERNELS,
];
