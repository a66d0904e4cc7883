/** Kernels that go over rows and have no matrix: norms, embedding, element by element, moving rows. Their time is the bytes they move. */

import type { DType, Type } from "../ir/types.js";
import { cFloat, constType, cType, joinName } from "./common.js";
import {
  type AnyKernel,
  bytesOf,
  type Cost,
  defineKernel,
  dtypeParam,
  type KernelParams,
  numberParam,
  type Rows,
  rowsOf,
  sizeOf,
  tensorType,
} from "./kernel-def.js";
import type { View } from "./view.js";

function isFloat(dtype: DType): boolean {
  return dtype === "f32" || dtype === "bf16";
}

/** Element type, width and count of rows of a matrix that a step sizes. */
export function rowParams(type: Type, name = "x"): KernelParams | string {
  const { dtype, shape } = tensorType(type);
  const rows = rowsOf(shape[0]);
  if (!rows || shape.length !== 2) return "rows are neither tokens nor sequences";
  return { [name]: dtype, width: sizeOf(type, 1), rows: rows.step, ...timesParam(rows) };
}

/** Rows a token, where it is more than one: the chosen experts'. */
function timesParam({ times }: Rows): KernelParams {
  return times === 1 ? {} : { times };
}

function moved(params: KernelParams, rows: number, ...dtypes: readonly string[]): Cost {
  const bytes = dtypes.reduce((sum, name) => sum + bytesOf(dtypeParam(params, name)), 0);
  return { bytes: rows * numberParam(params, "width") * bytes, operations: 0 };
}

function rowView(params: KernelParams): View {
  return { x: params.x as string, width: numberParam(params, "width") };
}

function widthName(params: KernelParams): string {
  return `w${params.width}`;
}

function timesSuffix(params: KernelParams): string {
  return params.times === undefined ? "" : `x${params.times}`;
}

const NORM_WEIGHT = [
  { layout: "row", dtype: "bf16" },
  { layout: "row", dtype: "f32" },
] as const;

const rmsNorm = defineKernel({
  op: "rms_norm",
  name: "rms_norm",
  order: "fixed-lanes",
  weights: { weight: NORM_WEIGHT },
  fit: (node) => {
    const params = rowParams(node.operands.x.type);
    if (typeof params === "string") return params;
    if (params.x !== "f32" || !isFloat(node.attrs.dtype)) return "rows that are not f32";
    return { ...params, eps: node.attrs.eps, out: node.attrs.dtype };
  },
  args: (params) => [
    { name: "x", type: constType(params.x) },
    { name: "weight", type: constType(params.weight_dtype) },
    { name: "out", type: cType(params.out) },
  ],
  cost: (params, rows) => moved(params, rows, "x", "out"),
  file: (params) =>
    joinName(
      "rms_norm",
      params.x as string,
      params.out as string,
      params.weight_dtype !== "bf16" && `w${params.weight_dtype}`,
      widthName(params),
    ),
  view: (params) => ({
    ...rowView(params),
    weight: params.weight_dtype as string,
    out: params.out as string,
    eps: cFloat(numberParam(params, "eps")),
  }),
});

const addRmsNorm = defineKernel({
  op: "add_rms_norm",
  name: "add_rms_norm",
  order: "fixed-lanes",
  weights: { weight: NORM_WEIGHT },
  fit: (node) => {
    const params = rowParams(node.operands.x.type);
    if (typeof params === "string") return params;
    if (params.x !== "f32" || !isFloat(node.attrs.dtype)) return "a residual that is not f32";
    return { ...params, eps: node.attrs.eps, out: node.attrs.dtype };
  },
  args: (params) => [
    { name: "x", type: constType(params.x) },
    { name: "residual", type: constType(params.x) },
    { name: "weight", type: constType(params.weight_dtype) },
    { name: "sum", type: cType(params.x) },
    { name: "out", type: cType(params.out) },
  ],
  inPlace: { sum: "residual" },
  cost: (params, rows) => moved(params, rows, "x", "x", "x", "out"),
  file: (params) =>
    joinName(
      "add_rms_norm",
      params.x as string,
      params.out as string,
      params.weight_dtype !== "bf16" && `w${params.weight_dtype}`,
      widthName(params),
    ),
  view: (params) => ({
    ...rowView(params),
    weight: params.weight_dtype as string,
    out: params.out as string,
    eps: cFloat(numberParam(params, "eps")),
  }),
});

const embedding = defineKernel({
  op: "embedding",
  name: "embedding",
  order: "exact",
  weights: {
    table: [
      { layout: "panel64", dtype: "bf16" },
      { layout: "row", dtype: "bf16" },
      { layout: "panel64", dtype: "f32" },
      { layout: "row", dtype: "f32" },
    ],
  },
  share: { table: (params, rows) => Math.min(1, rows / numberParam(params, "vocab")) },
  fit: (node) => {
    const rows = rowsOf(tensorType(node.operands.ids.type).shape[0]);
    if (!rows || rows.times !== 1) return "rows are neither tokens nor sequences";
    if (node.attrs.dtype !== "f32") return `writes no ${node.attrs.dtype}`;
    return {
      vocab: sizeOf(node.operands.table.type, 0),
      width: sizeOf(node.operands.table.type, 1),
      out: node.attrs.dtype,
      rows: rows.step,
    };
  },
  args: (params) => [
    { name: "ids", type: "const int32_t" },
    { name: "table", type: constType(params.table_dtype) },
    { name: "out", type: cType(params.out) },
  ],
  // A row of a panel is one pair of values in each cache line.
  cost: (params, rows) => ({ bytes: rows * numberParam(params, "width") * (params.table_layout === "panel64" ? 32 : 2), operations: 0 }),
  file: (params) =>
    joinName(
      "embedding",
      params.table_layout === "row" && "row",
      params.table_dtype as string,
      params.out as string,
      `n${params.vocab}`,
      widthName(params),
    ),
  view: (params) => ({
    table: params.table_dtype as string,
    vocab: numberParam(params, "vocab"),
    width: numberParam(params, "width"),
    is_panel: params.table_layout === "panel64",
  }),
});

const swiglu = defineKernel({
  op: "swiglu",
  name: "swiglu",
  order: "exact",
  fit: (node) => {
    const { gate, up } = node.operands;
    const params = rowParams(gate.type);
    if (typeof params === "string") return params;
    if (params.x !== "f32" || tensorType(up.type).dtype !== "f32" || !isFloat(node.attrs.dtype)) return "gate and up that are not f32";
    return { ...params, out: node.attrs.dtype };
  },
  args: (params) => [
    { name: "gate", type: constType(params.x) },
    { name: "up", type: constType(params.x) },
    { name: "out", type: cType(params.out) },
  ],
  cost: (params, rows) => moved(params, rows, "x", "x", "out"),
  file: (params) => joinName("swiglu", params.x as string, params.out as string, widthName(params), timesSuffix(params)),
  view: (params) => ({ ...rowView(params), out: params.out as string }),
});

const add = defineKernel({
  op: "add",
  name: "add",
  order: "exact",
  fit: (node) => {
    const params = rowParams(node.operands.a.type);
    if (typeof params === "string") return params;
    return params.x === "f32" ? params : `adds no ${params.x}`;
  },
  args: (params) => [
    { name: "a", type: constType(params.x) },
    { name: "b", type: constType(params.x) },
    { name: "out", type: cType(params.x) },
  ],
  inPlace: { out: "a" },
  cost: (params, rows) => moved(params, rows, "x", "x", "x"),
  file: (params) => joinName("add", params.x as string, widthName(params), timesSuffix(params)),
  view: rowView,
});

const cast = defineKernel({
  op: "cast",
  name: "cast",
  order: "exact",
  fit: (node) => {
    const params = rowParams(node.operands.x.type);
    if (typeof params === "string") return params;
    if (!isFloat(tensorType(node.operands.x.type).dtype) || !isFloat(node.attrs.dtype)) return "element types other than f32 and bf16";
    return { ...params, out: node.attrs.dtype };
  },
  args: (params) => [
    { name: "x", type: constType(params.x) },
    { name: "out", type: cType(params.out) },
  ],
  cost: (params, rows) => moved(params, rows, "x", "out"),
  file: (params) => joinName("cast", params.x as string, params.out as string, widthName(params), timesSuffix(params)),
  view: (params) => ({ ...rowView(params), out: params.out as string }),
});

/** The largest of each part of a row: `argmax_parts`, which the template compares. */
function argmaxWorkspace(params: KernelParams, rows: number): number {
  return rows * Math.ceil(numberParam(params, "width") / 4096) * 4;
}

const argmax = defineKernel({
  op: "argmax",
  name: "argmax",
  order: "exact",
  fit: (node) => {
    const params = rowParams(node.operands.x.type);
    if (typeof params === "string") return params;
    return params.x === "f32" ? params : `compares no ${params.x}`;
  },
  args: () => [
    { name: "x", type: "const float" },
    { name: "workspace", type: "float" },
    { name: "out", type: "int32_t" },
  ],
  workspace: argmaxWorkspace,
  cost: (params, rows) => moved(params, rows, "x"),
  file: (params) => joinName("argmax", params.x as string, widthName(params)),
  view: (params) => ({ ...rowView(params), workspace_of_7: argmaxWorkspace(params, 7) }),
});

const gatherRows = defineKernel({
  op: "gather_rows",
  name: "gather_rows",
  order: "exact",
  fit: (node) => {
    const { x, rows: picked } = node.operands;
    const rows = rowsOf(tensorType(picked.type).shape[0]);
    const { dtype, shape } = tensorType(x.type);
    if (!rows || shape.length !== 2) return "rows are neither tokens nor sequences";
    return { x: dtype, width: sizeOf(x.type, 1), rows: rows.step, ...timesParam(rows) };
  },
  args: (params) => [
    { name: "x", type: constType(params.x) },
    { name: "rows", type: "const int32_t" },
    { name: "out", type: cType(params.x) },
  ],
  cost: (params, rows) => moved(params, rows, "x", "x"),
  file: (params) => joinName("gather_rows", params.x as string, widthName(params)),
  view: rowView,
});

const split = defineKernel({
  op: "split",
  name: "split",
  order: "exact",
  fit: (node) => {
    const params = rowParams(node.operands.x.type);
    if (typeof params === "string") return params;
    return { ...params, sizes: node.attrs.sizes.join("_") };
  },
  args: (params) => [
    { name: "x", type: constType(params.x) },
    ...splitSizes(params).map((_, i) => ({ name: `pieces.${i}`, type: cType(params.x) })),
  ],
  cost: (params, rows) => moved(params, rows, "x", "x"),
  file: (params) => joinName("split", params.x as string, params.sizes as string),
  view: (params) => {
    let start = 0;
    const pieces = splitSizes(params).map((size, i) => {
      const piece = { piece: `pieces${i}`, start, size };
      start += size;
      return piece;
    });
    return { ...rowView(params), pieces };
  },
});

function splitSizes(params: KernelParams): readonly number[] {
  return String(params.sizes).split("_").map(Number);
}

/** On one device the collectives are copies; canonicalize takes them out, unless it is turned off. */
function collectiveParams(group: number, type: Type): KernelParams | string {
  return group === 1 ? rowParams(type) : `a group of ${group} devices`;
}

const COPY = {
  name: "copy",
  order: "exact",
  args: (params: KernelParams) => [
    { name: "x", type: constType(params.x) },
    { name: "out", type: cType(params.x) },
  ],
  cost: (params: KernelParams, rows: number) => moved(params, rows, "x", "x"),
  file: (params: KernelParams) => joinName("copy", params.x as string, widthName(params), timesSuffix(params)),
  view: rowView,
} as const;

const allReduce = defineKernel({ op: "all_reduce", fit: (node) => collectiveParams(node.attrs.group, node.operands.x.type), ...COPY });
const allGather = defineKernel({ op: "all_gather", fit: (node) => collectiveParams(node.attrs.group, node.operands.x.type), ...COPY });

export const ROW_KERNELS: readonly AnyKernel[] = [
  rmsNorm,
  addRmsNorm,
  embedding,
  swiglu,
  add,
  cast,
  argmax,
  gatherRows,
  split,
  allReduce,
  allGather,
];
