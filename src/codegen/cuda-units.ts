/** Which kernels are compiled together: starting nvcc and reading the shared headers costs more than most kernels do. */

import { clusterFor } from "../kernels/cuda/attention.js";
import type { UsedKernel } from "../kernels/kernel-def.js";
import type { CudaArch } from "../toolchain/arch.js";
import type { CubinUnit } from "../toolchain/nvcc.js";
import type { TritonUnit } from "../toolchain/triton.js";
import { renderTemplate } from "./render.js";
import { cudaLaunch, kernelPath, renderKernel } from "./sources.js";

export type CudaUnit = CubinUnit;

export const SYNTHETIC_FUNCTIONS = ["fill_synthetic_f32", "fill_synthetic_bf16"] as const;
export const SYNTHETIC_THREADS = 256;
const SYNTHETIC_SOURCE = "kernels/synthetic.cu";

/** `draw_threads` and `draw_held` of runtime/device/cuda/draw.cuh; the template compares what follows from them. */
export const DRAW_THREADS = 512;
const DRAW_HELD = 48;
export const DRAW_FUNCTION = "draw_tokens";
const DRAW_SOURCE = "kernels/draw.cu";

/** By template; what is not named goes with the small ones. */
const UNIT_OF: { readonly [template: string]: string } = {
  gemm: "gemm",
  gemm_rope: "gemm",
  wide_linear: "gemm",
  wide_head: "gemm",
  linear: "linear",
  linear_swiglu: "linear_swiglu",
  head_argmax: "head",
  persistent_decode: "persistent",
  attention_decode: "attention",
  attention_prefill: "attention",
  rope_attention: "attention",
  moe_router: "moe",
  norm_router: "moe",
  norm_router_many: "moe",
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
  for (const { name, kernel } of kernels)
    if (kernel.language !== "triton") add(UNIT_OF[kernel.template ?? kernel.name] ?? "rows", `kernels/${name}.cu`);
  add("rows", DRAW_SOURCE);
  if (synthetic) add("rows", SYNTHETIC_SOURCE);
  const order = ["persistent", "gemm", "linear", "linear_swiglu", "head", "moe", "attention", "rows"];
  return [...units].sort(([a], [b]) => order.indexOf(a) - order.indexOf(b)).map(([name, sources]) => ({ name, sources }));
}

/** A cubin for each function of kernels in Triton. */
export function tritonUnits(kernels: readonly UsedKernel[]): readonly TritonUnit[] {
  return kernels.flatMap((kernel) => {
    if (kernel.kernel.language !== "triton") return [];
    const text = renderKernel(kernel);
    return kernel.functions.map((called) => {
      const { threads, sharedBytes, triton } = cudaLaunch(kernel, called);
      return { name: called.name, source: kernelPath(kernel), text, threads, sharedBytes, stages: triton?.stages ?? 1 };
    });
  });
}

/** Sources that no graph asks for, by path. */
/** `draw_shared_bytes`. */
export function drawSharedBytes(arch: CudaArch, vocab: number): number {
  const warps = clusterFor(arch) * (DRAW_THREADS / 32);
  return 4 * DRAW_THREADS * Math.min(DRAW_HELD, Math.ceil(Math.ceil(vocab / warps) / 32));
}

export function extraCudaSources(arch: CudaArch, vocab: number, synthetic: boolean): ReadonlyMap<string, string> {
  const sources = new Map([
    [
      DRAW_SOURCE,
      renderTemplate("cuda/draw", {
        threads: DRAW_THREADS,
        cluster: clusterFor(arch),
        vocab,
        shared_bytes: drawSharedBytes(arch, vocab),
        name: DRAW_FUNCTION,
      }),
    ],
  ]);
  if (synthetic) sources.set(SYNTHETIC_SOURCE, renderTemplate("cuda/synthetic", { threads: SYNTHETIC_THREADS }));
  return sources;
}

/** Puts the machine code into the library, as it is. */
export function cubinAssembly(units: readonly { readonly name: string }[]): string {
  return renderTemplate("package/cubins", { cubins: units.map(({ name }) => ({ cubin: name })) });
}
