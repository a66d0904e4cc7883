/**
 * Products of a few rows with a weight that is read once: runtime/device/cuda/linear.cuh, linear_swiglu.cuh, head_argmax.cuh, over product.cuh. The norm in
 * front and the residual behind are parts of the same launch.
 */

import type { NodeOf, Value } from "../../ir/graph.js";
import type { OpName } from "../../ir/ops.js";
import { cFloat, constType, cType, joinName } from "../common.js";
import { type Count, ONE } from "../cuda-launch.js";
import { type AnyKernel, type Argument, bytesOf, dtypeParam, type KernelParams, numberParam, tensorType } from "../kernel-def.js";
import { productCost, productParams } from "../matmul.js";
import type { View } from "../view.js";
import { BF16_ROWS, type CudaEntry, ceilDiv, defineCuda, F32_ROWS } from "./define.js";
import { gemmLinear, gemmProjection, gemmRope, gemmSwiglu } from "./gemm.js";
import { MULTIPROCESSORS, ROW_TILES, type RowTiles, type Tiling, tilingFor, tilingSuffix } from "./tiling.js";
import { tritonLinear, tritonProjection, tritonSwiglu } from "./triton.js";
import { wideHead, wideLinear, wideProjection, wideSwiglu } from "./wide.js";

const WEIGHTS = { weight: BF16_ROWS, bias: F32_ROWS, norm: BF16_ROWS };

type Product = NodeOf<"linear"> | NodeOf<"projection"> | NodeOf<"linear_swiglu"> | NodeOf<"head_argmax">;

/** Sizes, types and what is fused; or why no kernel takes it. */
function fitProduct(node: Product): KernelParams | string {
  const { x, weight, bias, norm, residual } = node.operands as { readonly [name: string]: Value | undefined };
  const params = productParams(x as Value, weight as Value, x as Value);
  if (typeof params === "string") return params;
  if (numberParam(params, "k") % 8 !== 0) return `rows of ${params.k} are no multiple of 16 bytes`;
  // A norm rounds what it reads to bf16 on the way.
  if (params.x !== (norm ? "f32" : "bf16")) return `x is ${params.x}${norm ? " under a norm" : ""}`;
  const { eps, norm_dtype } = node.attrs as { readonly eps?: number; readonly norm_dtype?: string };
  if (norm && norm_dtype !== "bf16") return "a norm that is not rounded to bf16";
  if (residual && tensorType(residual.type).dtype !== "f32") return "a residual that is not f32";
  return {
    ...params,
    bias: bias !== undefined,
    ...(norm ? { norm: true, eps: eps ?? 0 } : {}),
    ...(residual ? { residual: true } : {}),
  };
}

function productArgs(params: KernelParams, results: readonly Argument[]): readonly Argument[] {
  return [
    { name: "x", type: constType(params.x) },
    { name: "weight", type: "const Bf16" },
    ...(params.bias ? [{ name: "bias", type: "const float" }] : []),
    ...(params.norm ? [{ name: "norm", type: "const Bf16" }] : []),
    ...(params.residual ? [{ name: "residual", type: "const float" }] : []),
    ...results,
  ];
}

function productName(op: string, params: KernelParams, sizes: readonly string[], tiling: Tiling): string {
  const types = [params.x as string, params.out as string | undefined];
  const fused = [params.bias && "bias", params.norm && "norm", params.residual && "add"] as const;
  return joinName(
    op,
    ...types,
    ...sizes,
    params.group !== undefined && params.group !== 32 && `g${params.group}`,
    ...fused,
    tilingSuffix(tiling, params),
  );
}

function productView(params: KernelParams, { sharedBytes, view }: Tiling): View {
  return {
    k: numberParam(params, "k"),
    x: params.x as string,
    bias: params.bias as boolean,
    norm: params.norm === true,
    eps: cFloat(typeof params.eps === "number" ? params.eps : 0),
    shared_bytes: sharedBytes(params),
    ...view(params),
  };
}

function blocks(constant: number): readonly [Count, Count, Count] {
  return [{ constant }, ONE, ONE];
}

/** The variants of an op, by how many rows share a read of the weight. */
function variants<K extends OpName>(op: K, entry: (tiles: RowTiles) => Omit<CudaEntry<K>, "suffix" | "mostRows">): readonly AnyKernel[] {
  return ROW_TILES.map((tiles) => {
    const { suffix, mostRows, tokenTiles, otherOrder } = tiles;
    return defineCuda(op, {
      ...entry(tiles),
      // With half of its rows missing the kernel for half as many is the better one; after some rounds one that reads the weight once is.
      ...(mostRows !== undefined || otherOrder ? { worth: { least: 4 * tokenTiles + 1, most: 32 * tokenTiles } } : {}),
      ...(suffix === undefined ? {} : { suffix }),
      ...(mostRows === undefined ? {} : { mostRows }),
      ...(tiles.otherOrder ? { order: "by-bucket" as const } : {}),
    });
  });
}

const sizeN = (params: KernelParams): number => numberParam(params, "n");
const sizeK = (params: KernelParams): number => numberParam(params, "k");

/** `linear` is a projection with nothing fused. */
function linearEntry(tiles: RowTiles): Omit<CudaEntry<"linear"> & CudaEntry<"projection">, "suffix" | "mostRows"> {
  const tiling = tilingFor(tiles, { role: "linear", n: sizeN, k: sizeK, once: tiles.mostRows !== undefined });
  return {
    name: "linear",
    order: "sequential-k",
    late: true,
    weights: WEIGHTS,
    tunables: tiling.tunables,
    constraint: tiling.constraint,
    footprint: tiling.footprint,
    fit: (node: NodeOf<"linear"> | NodeOf<"projection">) => {
      const { dtype } = node.attrs;
      const params = fitProduct(node);
      if (typeof params === "string") return params;
      return dtype === "f32" || dtype === "bf16" ? { ...params, out: dtype } : `writes no ${dtype}`;
    },
    args: (params) => productArgs(params, [{ name: "out", type: cType(params.out) }]),
    cost: (params, rows) => productCost(params, rows, bytesOf(dtypeParam(params, "out"))),
    file: (params) => productName("linear", params, [`n${params.n}`, `k${params.k}`], tiling),
    launch: (params) => ({
      threads: tiling.threads(params),
      grid: blocks(ceilDiv(sizeN(params), tiling.rows(params))),
      sharedBytes: tiling.sharedBytes(params),
      blocksPerMultiprocessor: tiling.residents(params),
    }),
    view: (params) => ({
      ...productView(params, tiling),
      n: sizeN(params),
      out: params.out as string,
      residual: params.residual === true,
      late: params.late === true,
    }),
  };
}

const linear = variants<"linear">("linear", linearEntry);
const projection = variants<"projection">("projection", linearEntry);

const LAST_TILES = ROW_TILES.at(-2) as RowTiles;

function swigluEntry(tiles: RowTiles): Omit<CudaEntry<"linear_swiglu">, "suffix" | "mostRows"> {
  const tiling = tilingFor(tiles, { role: "swiglu", n: sizeN, k: sizeK, once: tiles.mostRows !== undefined });
  return {
    name: "linear_swiglu",
    late: true,
    weights: WEIGHTS,
    tunables: tiling.tunables,
    constraint: tiling.constraint,
    footprint: tiling.footprint,
    fit: (node) => {
      const params = fitProduct(node);
      if (typeof params === "string") return params;
      const { group, dtype } = node.attrs;
      if (numberParam(params, "n") % 16 !== 0 || group % 8 !== 0) return "a width or a group that is no multiple of 8";
      return dtype === "f32" || dtype === "bf16" ? { ...params, group, out: dtype } : `writes no ${dtype}`;
    },
    args: (params) => productArgs(params, [{ name: "out", type: cType(params.out) }]),
    file: (params) => productName("linear_swiglu", params, [`m${sizeN(params) / 2}`, `k${params.k}`], tiling),
    launch: (params) => ({
      threads: tiling.threads(params),
      grid: blocks(ceilDiv(sizeN(params), tiling.rows(params))),
      sharedBytes: tiling.sharedBytes(params),
      blocksPerMultiprocessor: tiling.residents(params),
    }),
    view: (params) => ({
      ...productView(params, tiling),
      m: sizeN(params) / 2,
      group: numberParam(params, "group"),
      out: params.out as string,
      late: params.late === true,
    }),
  };
}

const linearSwiglu = variants<"linear_swiglu">("linear_swiglu", swigluEntry);

/** Blocks of the head, each of which leaves its best of each row. */
function headBlocks(params: KernelParams, tiling: Tiling): number {
  return Math.min(Math.min(2, tiling.residents(params)) * MULTIPROCESSORS, ceilDiv(sizeN(params), tiling.rows(params)));
}

/** A value and an id for each row and block: `head_argmax_workspace`, which the template compares. */
function headWorkspace(params: KernelParams, tiling: Tiling, rows: number): number {
  return rows * headBlocks(params, tiling) * 8;
}

function headEntry(tiles: RowTiles): Omit<CudaEntry<"head_argmax">, "suffix" | "mostRows"> {
  const tiling = tilingFor(tiles, { role: "head", n: sizeN, k: sizeK, once: false });
  return {
    name: "head_argmax",
    weights: WEIGHTS,
    tunables: tiling.tunables,
    constraint: tiling.constraint,
    footprint: tiling.footprint,
    fit: fitProduct,
    args: (params) =>
      productArgs(params, [
        { name: "logits", type: "float" },
        { name: "ids", type: "int32_t" },
        { name: "workspace", type: "void" },
      ]),
    workspace: (params, rows) => headWorkspace(params, tiling, rows),
    file: (params) => productName("head_argmax", params, [`n${params.n}`, `k${params.k}`], tiling),
    launch: (params) => ({
      threads: tiling.threads(params),
      grid: blocks(headBlocks(params, tiling)),
      sharedBytes: tiling.sharedBytes(params),
      // It keeps the best of each row besides.
      blocksPerMultiprocessor: tiles.tokenTiles > 2 ? 1 : tiling.residents(params),
    }),
    view: (params) => ({
      ...productView(params, tiling),
      n: sizeN(params),
      blocks: headBlocks(params, tiling),
      workspace_of_7: headWorkspace(params, tiling, 7),
    }),
  };
}

const headArgmax = variants<"head_argmax">("head_argmax", headEntry);

/** The last of an op's variants take any number of rows, slowly; where the GPU has wgmma there are better ones for more than 8 rows, and for many. */
function withWgmma(few: readonly AnyKernel[], wide: (columns: 16 | 32 | 64) => AnyKernel, many?: AnyKernel): readonly AnyKernel[] {
  const upto = (rows: number): number => few.findIndex(({ mostRows = Number.POSITIVE_INFINITY }) => mostRows > rows);
  const [small, first] = [upto(8), upto(16)];
  return [
    ...few.slice(0, small),
    wide(16),
    ...few.slice(small, first),
    wide(32),
    wide(64),
    ...few.slice(first, -2),
    ...(many ? [many] : []),
    ...few.slice(-2),
  ];
}

export const CUDA_MATMUL_KERNELS: readonly AnyKernel[] = [
  ...withWgmma(linear, (columns) => wideLinear(linearEntry(LAST_TILES), columns), gemmLinear(linearEntry(LAST_TILES))),
  tritonLinear(linearEntry(LAST_TILES)),
  ...withWgmma(projection, (columns) => wideProjection(linearEntry(LAST_TILES), columns), gemmProjection(linearEntry(LAST_TILES))),
  tritonProjection(linearEntry(LAST_TILES)),
  gemmRope,
  ...withWgmma(linearSwiglu, (columns) => wideSwiglu(swigluEntry(LAST_TILES), columns), gemmSwiglu(swigluEntry(LAST_TILES))),
  tritonSwiglu(swigluEntry(LAST_TILES)),
  ...withWgmma(headArgmax, (columns) => wideHead(headEntry(LAST_TILES), columns)),
];
