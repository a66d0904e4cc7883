/** Mixture of experts: runtime/device/cpu/moe_router.hpp, moe_ffn.hpp, and what stands in for the latter without fuse-moe: expert_linear.hpp, moe_combine.hpp. */

import { sameDim } from "../ir/types.js";
import { cFloat, constType, cType, F32_ROW, joinName, PANELS } from "./common.js";
import {
  type AnyKernel,
  bytesOf,
  defineKernel,
  dtypeParam,
  type KernelParams,
  numberParam,
  rowsOf,
  sizeOf,
  tensorType,
} from "./kernel-def.js";
import { productParams, TILING, tilingConstraint, tilingFootprint, tilingName, tilingView, unevenTilingConstraint } from "./matmul.js";

/** Of all experts, those that some row chose, where routing is spread evenly. */
function expertShare(choices: string): (params: KernelParams, rows: number) => number {
  return (params, rows) => 1 - (1 - numberParam(params, choices) / numberParam(params, "experts")) ** rows;
}

const expertLinear = defineKernel({
  op: "expert_linear",
  name: "expert_linear",
  order: "sequential-k",
  weights: { weight: PANELS },
  share: { weight: expertShare("choices") },
  fit: (node) => {
    const { x, indices, weight } = node.operands;
    const [xType, choices] = [tensorType(x.type), tensorType(indices.type)];
    const rows = rowsOf(choices.shape[0]);
    if (!rows || rows.times !== 1) return "rows are neither tokens nor sequences";
    const rowAChoice = !sameDim(xType.shape[0] as never, choices.shape[0] as never);
    const sizes = {
      experts: sizeOf(weight.type, 0),
      n: sizeOf(weight.type, 1),
      k: sizeOf(weight.type, 2),
      choices: sizeOf(indices.type, 1),
    };
    return { ...sizes, x: xType.dtype, out: node.attrs.dtype, rows: rows.step, row_a_choice: rowAChoice };
  },
  tunables: TILING,
  constraint: unevenTilingConstraint,
  footprint: tilingFootprint,
  args: (params) => [
    { name: "x", type: constType(params.x) },
    { name: "indices", type: "const int32_t" },
    { name: "weight", type: constType(params.weight_dtype) },
    { name: "out", type: cType(params.out) },
  ],
  cost: (params, rows) => expertCost(params, rows, numberParam(params, "n")),
  file: (params) =>
    joinName(
      "expert_linear",
      params.x as string,
      params.weight_dtype === "f32" && "wf32",
      params.out as string,
      `e${params.experts}`,
      `n${params.n}`,
      `k${params.k}`,
      `top${params.choices}`,
      params.row_a_choice && "chosen",
      tilingName(params),
    ),
  view: (params) => ({
    x: params.x as string,
    weight: params.weight_dtype as string,
    out: params.out as string,
    experts: numberParam(params, "experts"),
    n: numberParam(params, "n"),
    k: numberParam(params, "k"),
    choices: numberParam(params, "choices"),
    row_a_choice: params.row_a_choice as boolean,
    ...tilingView(params),
  }),
});

/** Of one matrix [n, k] an expert, read by `choices` experts a row until all are read. */
function expertCost(params: KernelParams, rows: number, n: number): { bytes: number; operations: number } {
  const [experts, k, choices] = ["experts", "k", "choices"].map((name) => numberParam(params, name)) as [number, number, number];
  const read = Math.min(experts, rows * choices);
  return { bytes: read * n * k * (params.weight_dtype === "f32" ? 4 : 2), operations: 2 * rows * choices * n * k };
}

const moeCombine = defineKernel({
  op: "moe_combine",
  name: "moe_combine",
  order: "by-expert",
  fit: (node) => {
    const { rows, indices } = node.operands;
    const count = rowsOf(tensorType(indices.type).shape[0]);
    if (!count || count.times !== 1) return "rows are neither tokens nor sequences";
    if (tensorType(rows.type).dtype !== "f32") return "rows that are not f32";
    return { width: sizeOf(rows.type, 1), choices: sizeOf(indices.type, 1), rows: count.step };
  },
  args: () => [
    { name: "rows", type: "const float" },
    { name: "indices", type: "const int32_t" },
    { name: "weights", type: "const float" },
    { name: "out", type: "float" },
  ],
  cost: (params, rows) => ({ bytes: 4 * rows * numberParam(params, "width") * (numberParam(params, "choices") + 1), operations: 0 }),
  file: (params) => joinName("moe_combine", `w${params.width}`, `top${params.choices}`),
  view: (params) => ({ width: numberParam(params, "width"), choices: numberParam(params, "choices") }),
});

const moeRouter = defineKernel({
  op: "moe_router",
  name: "moe_router",
  order: "sequential-k",
  // As the checkpoint has it: choices between close experts are f32's.
  weights: {
    gate: [
      { layout: "panel64", dtype: "f32" },
      { layout: "panel64", dtype: "bf16" },
    ],
    correction: F32_ROW,
  },
  fit: (node) => {
    const { x, gate, correction } = node.operands;
    const params = productParams(x, gate, x);
    if (typeof params === "string") return params;
    const { n: experts, k: hidden, ...rest } = params;
    return {
      ...rest,
      experts: experts as number,
      hidden: hidden as number,
      chosen: node.attrs.k,
      norm_min: node.attrs.norm_min,
      correction: correction !== undefined,
    };
  },
  tunables: TILING,
  constraint: tilingConstraint,
  footprint: tilingFootprint,
  args: (params) => [
    { name: "x", type: constType(params.x) },
    { name: "gate", type: constType(params.gate_dtype) },
    ...(params.correction ? [{ name: "correction", type: "const float" }] : []),
    { name: "logits", type: "float" },
    { name: "indices", type: "int32_t" },
    { name: "weights", type: "float" },
  ],
  cost: (params, rows) => {
    const size = numberParam(params, "experts") * numberParam(params, "hidden");
    return { bytes: size * (params.gate_dtype === "bf16" ? 2 : 4), operations: 2 * rows * size };
  },
  file: (params) =>
    joinName(
      "moe_router",
      params.x as string,
      params.gate_dtype as string,
      `e${params.experts}`,
      `h${params.hidden}`,
      `top${params.chosen}`,
      params.correction && "corrected",
      tilingName(params),
    ),
  view: (params) => ({
    x: params.x as string,
    gate: params.gate_dtype as string,
    experts: numberParam(params, "experts"),
    hidden: numberParam(params, "hidden"),
    chosen: numberParam(params, "chosen"),
    norm_min: cFloat(numberParam(params, "norm_min")),
    correction: params.correction as boolean,
    ...tilingView(params),
  }),
});

/** Choices sorted by expert, then their hidden rows: `moe_ffn_workspace`, which the template compares. */
function ffnWorkspace(params: KernelParams, rows: number): number {
  const [experts, chosen, m] = ["experts", "chosen", "m"].map((name) => numberParam(params, name)) as [number, number, number];
  const buckets = (2 * (experts + 1) + 2 * rows * chosen) * 4;
  return Math.ceil(buckets / 64) * 64 + rows * chosen * m * bytesOf(dtypeParam(params, "x"));
}

const moeFfn = defineKernel({
  op: "moe_ffn",
  name: "moe_ffn",
  order: "sequential-k",
  weights: { gate_up: PANELS, down: PANELS },
  share: { gate_up: expertShare("chosen"), down: expertShare("chosen") },
  fit: (node) => {
    const { x, indices, down, gate_up, addend } = node.operands;
    const { group, dtype } = node.attrs;
    const rows = rowsOf(tensorType(x.type).shape[0]);
    if (!rows || rows.times !== 1) return "rows are neither tokens nor sequences";
    if (![8, 16, 32].includes(group)) return `groups of ${group}, expected 8, 16 or 32`;
    if (tensorType(x.type).dtype !== dtype) return "hidden rows of another type than x";
    if (tensorType(gate_up.type).dtype !== tensorType(down.type).dtype) return "gate_up and down of different types";
    const sizes = { experts: sizeOf(down.type, 0), hidden: sizeOf(down.type, 1), m: sizeOf(down.type, 2), chosen: sizeOf(indices.type, 1) };
    return { ...sizes, group, x: dtype, rows: rows.step, addend: addend !== undefined };
  },
  tunables: TILING,
  constraint: unevenTilingConstraint,
  footprint: tilingFootprint,
  args: (params) => [
    { name: "x", type: constType(params.x) },
    { name: "indices", type: "const int32_t" },
    { name: "weights", type: "const float" },
    { name: "gate_up", type: constType(params.gate_up_dtype) },
    { name: "down", type: constType(params.down_dtype) },
    ...(params.addend ? [{ name: "addend", type: "const float" }] : []),
    { name: "out", type: "float" },
    { name: "workspace", type: "void" },
  ],
  workspace: ffnWorkspace,
  cost: (params, rows) => {
    const [experts, chosen, m, hidden] = ["experts", "chosen", "m", "hidden"].map((name) => numberParam(params, name)) as [
      number,
      number,
      number,
      number,
    ];
    const one = 3 * m * hidden;
    return {
      bytes: Math.min(experts, rows * chosen) * one * (params.gate_up_dtype === "f32" ? 4 : 2),
      operations: 2 * rows * chosen * one,
    };
  },
  file: (params) =>
    joinName(
      "moe_ffn",
      params.x as string,
      params.gate_up_dtype === "f32" && "wf32",
      `e${params.experts}`,
      `top${params.chosen}`,
      `h${params.hidden}`,
      `m${params.m}`,
      params.group !== 32 && `g${params.group}`,
      params.addend && "add",
      tilingName(params),
    ),
  view: (params) => ({
    x: params.x as string,
    x_type: cType(params.x),
    weight: params.gate_up_dtype as string,
    workspace_of_7: ffnWorkspace(params, 7),
    experts: numberParam(params, "experts"),
    hidden: numberParam(params, "hidden"),
    m: numberParam(params, "m"),
    chosen: numberParam(params, "chosen"),
    group: numberParam(params, "group"),
    addend: params.addend as boolean,
    ...tilingView(params),
  }),
});

export const MOE_KERNELS: readonly AnyKernel[] = [moeRouter, moeFfn, expertLinear, moeCombine];
