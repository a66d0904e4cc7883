/**
 * What a launch of each tunable op reads and writes, from the kernel's own parameters: enough to allocate it, fill it with numbers and run the
 * reference on it. Of choices above a kernel the sizes alone: what runs is a package. An op is tuned when it is here and its kernel has tunables. expert_linear is not: only packages that leave fuse-moe out have it.
 */

import { bug } from "../diagnostics.js";
import { type KernelParams, numberParam } from "../kernels/kernel-def.js";
import type { StepOp } from "../kernels/steps.js";

export type KernelOp = "linear" | "projection" | "linear_swiglu" | "head_argmax" | "moe_router" | "moe_ffn";
export type TunedOp = KernelOp | StepOp;

type FieldKind = "size" | "float" | "bool" | "dtype";
/** Of a field that is there only where a GPU's kernel has it fused: `flag` is true or not there, `if norm` is there beside it, `count` a size. */
type FusedKind = "flag" | "if norm" | "count";

export interface Operand {
  readonly name: string;
  readonly role: "input" | "weight" | "output";
  readonly dtype: "f32" | "bf16" | "i32";
  /** Of a weight [slabs, n, k]. */
  readonly shape: readonly number[];
}

interface ProblemDef {
  /** Of the kernel's parameters, besides how each weight is packed. */
  readonly fields: { readonly [name: string]: FieldKind };
  /** Of kernels for GPUs, besides. */
  readonly fused?: { readonly [name: string]: FusedKind };
  /** On any device, besides. */
  readonly optional?: { readonly [name: string]: FusedKind };
  /** Weight operands; a name says which parameter decides whether it is there. */
  readonly weights: { readonly [operand: string]: true | string };
  readonly operands: (params: KernelParams, rows: number) => readonly Operand[];
}

/** Of every op on a GPU: shared memory of a block where it is less than the usual. */
export const DEVICE_FIELDS: { readonly [name: string]: FusedKind } = { shared_kib: "count" };

const NORM = { norm: "flag", eps: "if norm" } as const;

const PRODUCT: ProblemDef = {
  fields: { n: "size", k: "size", x: "dtype", out: "dtype", bias: "bool" },
  weights: { weight: true, bias: "bias" },
  operands: (params, rows) => product(params, rows, [output("out", params.out, [rows, numberParam(params, "n")])]),
};

/** Sizes of a model, as src/frontend/step-problem.ts names them. */
const STEP: ProblemDef = {
  fields: { layers: "size", hidden: "size", heads: "size", kv_heads: "size", head_dim: "size", ffn: "size", vocab: "size", x: "dtype" },
  optional: {
    tied: "flag",
    bias: "flag",
    experts: "count",
    chosen: "count",
    expert_ffn: "count",
    shared_experts: "count",
    dense_layers: "count",
  },
  weights: {},
  operands: () => [],
};

export const PROBLEMS: { readonly [K in TunedOp]: ProblemDef } = {
  linear: PRODUCT,
  projection: { ...PRODUCT, fused: { ...NORM, residual: "flag" }, weights: { ...PRODUCT.weights, norm: "norm" } },
  linear_swiglu: {
    fields: { n: "size", k: "size", x: "dtype", out: "dtype", bias: "bool", group: "size" },
    fused: NORM,
    weights: { weight: true, bias: "bias", norm: "norm" },
    operands: (params, rows) => product(params, rows, [output("out", params.out, [rows, numberParam(params, "n") / 2])]),
  },
  head_argmax: {
    fields: { n: "size", k: "size", x: "dtype", bias: "bool" },
    fused: NORM,
    weights: { weight: true, bias: "bias", norm: "norm" },
    operands: (params, rows) =>
      product(params, rows, [output("logits", "f32", [rows, numberParam(params, "n")]), output("ids", "i32", [rows])]),
  },
  moe_router: {
    fields: { x: "dtype", experts: "size", hidden: "size", chosen: "size", norm_min: "float", correction: "bool" },
    fused: { cluster: "count" },
    weights: { gate: true, correction: "correction" },
    operands: (params, rows) => {
      const [experts, hidden, chosen] = sizes(params, "experts", "hidden", "chosen");
      return [
        input("x", params.x, [rows, hidden]),
        weight("gate", params.gate_dtype, [1, experts, hidden]),
        ...(params.correction ? [weight("correction", "f32", [1, 1, experts])] : []),
        output("logits", "f32", [rows, experts]),
        output("indices", "i32", [rows, chosen]),
        output("weights", "f32", [rows, chosen]),
      ];
    },
  },
  moe_ffn: {
    fields: { x: "dtype", experts: "size", hidden: "size", m: "size", chosen: "size", group: "size", addend: "bool" },
    weights: { gate_up: true, down: true },
    operands: (params, rows) => {
      const [experts, hidden, m, chosen] = sizes(params, "experts", "hidden", "m", "chosen");
      return [
        input("x", params.x, [rows, hidden]),
        input("indices", "i32", [rows, chosen]),
        input("weights", "f32", [rows, chosen]),
        weight("gate_up", params.gate_up_dtype, [experts, 2 * m, hidden]),
        weight("down", params.down_dtype, [experts, hidden, m]),
        ...(params.addend ? [input("addend", "f32", [rows, hidden])] : []),
        output("out", "f32", [rows, hidden]),
      ];
    },
  },
  step_decode: { ...STEP, fields: { ...STEP.fields, sequences: "size" } },
  step_prefill: STEP,
  step_request: { ...STEP, fields: { ...STEP.fields, cores: "size" } },
};

export function isTunedOp(op: string): op is TunedOp {
  return Object.hasOwn(PROBLEMS, op);
}

/** x . weight^T + bias, to results. */
function product(params: KernelParams, rows: number, results: readonly Operand[]): readonly Operand[] {
  const [n, k] = sizes(params, "n", "k");
  return [
    input("x", params.x, [rows, k]),
    weight("weight", params.weight_dtype, [1, n, k]),
    ...(params.bias ? [weight("bias", "f32", [1, 1, n])] : []),
    ...(params.norm ? [weight("norm", "bf16", [1, 1, k])] : []),
    ...(params.residual ? [input("residual", params.out, [rows, n])] : []),
    ...results,
  ];
}

function sizes<const N extends readonly string[]>(params: KernelParams, ...names: N): { [I in keyof N]: number } {
  return names.map((name) => numberParam(params, name)) as { [I in keyof N]: number };
}

function input(name: string, dtype: unknown, shape: readonly number[]): Operand {
  return { name, role: "input", dtype: element(dtype), shape };
}
function weight(name: string, dtype: unknown, shape: readonly number[]): Operand {
  return { name, role: "weight", dtype: element(dtype), shape };
}
function output(name: string, dtype: unknown, shape: readonly number[]): Operand {
  return { name, role: "output", dtype: element(dtype), shape };
}

function element(dtype: unknown): Operand["dtype"] {
  if (dtype === "f32" || dtype === "bf16" || dtype === "i32") return dtype;
  throw bug(`elements of ${String(dtype)} in a tuning problem`);
}

export function elementBytes(dtype: Operand["dtype"]): number {
  return dtype === "bf16" ? 2 : 4;
}

export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** Of a matrix in panels, as runtime/device/layout/panel.hpp lays them out. */
export function packedElements([slabs = 1, n = 1, k = 1]: readonly number[], layout: string): number {
  return layout === "panel64" ? slabs * Math.ceil(n / 16) * 16 * Math.ceil(k / 2) * 2 : slabs * n * k;
}
