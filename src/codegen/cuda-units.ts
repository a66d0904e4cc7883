/** Which kernels are compiled together: starting nvcc and reading the shared headers costs more than most kernels do. */

import type { UsedKernel } from "../kernels/kernel-def.js";
import type { CubinUnit } from "../toolchain/nvcc.js";
import { renderTemplate } from "./render.js";

export type CudaUnit = CubinUnit;

export const SYNTHETIC_FUNCTIONS = ["fill_synthetic_f32", "fill_synthetic_bf16"] as const;
export const SYNTHETIC_THREADS = 256;
const SYNTHETIC_SOURCE = "kernels/synthetic.cu";

/** By template; what is not named goes with the small ones. */
const UNIT_OF: { readonly [template: string]: string } = {
  gemm: "gemm",
  wide_linear: "gemm",
  wide_head: "gemm",
  linear: "linear",
  linear_swiglu: "linear_swiglu",
  head_argmax: "head",
  attention_decode: "attention",
  attention_prefill: "attention",
  rope_attention: "attention",
  moe_router: "moe",
  norm_router: "moe",
  router_swiglu: "moe",
  moe_ffn: "moe",
  expert_linear: "moe",
};

/** The longest to compile first. */
export function cudaUnits(kernels: readonly UsedKernel[], synthetic: boolean): readonly CudaUnit[] {
  const units = new Map<string, string[]>();
  const add = (unit: string, source: string): void => {
    units.set(unit, [...(units.get(unit) ?? []), source]);
  };
  for (const { name, kernel } of kernels) add(UNIT_OF[kernel.template ?? kernel.name] ?? "rows", `kernels/${name}.cu`);
  if (synthetic) add("rows", SYNTHETIC_SOURCE);
  const order = ["gemm", "linear", "linear_swiglu", "head", "moe", "attention", "rows"];
  return [...units].sort(([a], [b]) => order.indexOf(a) - order.indexOf(b)).map(([name, sources]) => ({ name, sources }));
}

/** Sources that no graph asks for, by path. */
export function extraCudaSources(synthetic: boolean): ReadonlyMap<string, string> {
  return new Map(synthetic ? [[SYNTHETIC_SOURCE, renderTemplate("cuda/synthetic", { threads: SYNTHETIC_THREADS })]] : []);
}

/** Puts the machine code into the library, as it is. */
export function cubinAssembly(units: readonly CudaUnit[]): string {
  return renderTemplate("package/cubins", { cubins: units.map(({ name }) => ({ cubin: name })) });
}
