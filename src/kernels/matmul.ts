/** Products with a weight in panels: runtime/device/cpu/linear.hpp, linear_swiglu.hpp, head_argmax.hpp. Experts and the router are in moe.ts. */

import { bug } from "../diagnostics.js";
import type { NodeOf, Value } from "../ir/graph.js";
import { type CpuArch, isCpuArch, vectorLanes } from "../toolchain/arch.js";
import { constType, cType, F32_ROW, joinName, PANELS } from "./common.js";
import {
  type AnyKernel,
  bytesOf,
  type Cost,
  defineKernel,
  dtypeParam,
  type Footprint,
  type KernelParams,
  numberParam,
  rowsOf,
  sizeOf,
  type Tunable,
  type TuningPlace,
  tensorType,
} from "./kernel-def.js";
import type { View } from "./view.js";

/** Of `Tiling` in runtime/device/cpu/matmul.hpp; no choice changes a bit of a result. 0 rows: as many as the level's registers hold. */
export const TILING: readonly Tunable[] = [
  { name: "tile_rows", summary: "most rows of a register tile; 0: by the level", values: () => [0, 4, 5, 6], default: () => 0 },
  { name: "k_block", summary: "k of a pass of many tiles", values: () => [128, 256, 384, 512], default: () => 256 },
  { name: "few_block", summary: "k of a pass of few tiles", values: () => [64, 128, 256], default: () => 128 },
  { name: "row_block", summary: "rows that share a pass", values: () => [48, 96, 192, 384], default: () => 192 },
  { name: "ahead", summary: "bytes fetched ahead of a lone tile", values: () => [0, 1024, 2048, 4096], default: () => 0 },
  { name: "next", summary: "whether tiles fetch the next block of a panel", values: () => [0, 1], default: () => 1 },
];

/** `few` of Tiling: tiles up to which a pass takes `few_block`. */
const FEW_TILES = 12;

/** `tile_height` of matmul.hpp: rows of a tile where tile_rows is 0. */
function tileHeight(params: KernelParams, arch: CpuArch): number {
  const wide = params.x === "f32";
  if (vectorLanes(arch) === 16) return arch === "x86-64-v4-bf16" || wide ? 6 : 5;
  return wide ? 5 : 4;
}

function cpuArch({ arch }: TuningPlace): CpuArch {
  if (!isCpuArch(arch)) throw bug(`a kernel for CPUs is tuned for ${arch}`);
  return arch;
}

/**
 * Which tilings differ on so many rows, by what panel_matmul does with them: rows that one tile takes in one go make a stream, which only `ahead`
 * touches; others pass in tiles, few or many, and never look at `ahead`. `uneven`: any number of rows up to this may come, as an expert's do.
 */
function tilingDiffers(params: KernelParams, place: TuningPlace, uneven: boolean): boolean {
  const { rows } = place;
  const arch = cpuArch(place);
  const [tileRows, rowBlock] = [numberParam(params, "tile_rows"), numberParam(params, "row_block")];
  const standard = (name: string): boolean => params[name] === TILING.find((tunable) => tunable.name === name)?.default(params);
  const tallest = tileHeight(params, arch);
  if (tileRows === tallest) return false; // what 0 says
  const tile = Math.min(tileRows || tallest, rows);
  // The least height that there is takes 4 rows as one tile, as all others do.
  if (rows <= 4 && tileRows !== 0) return false;
  // Blocks that hold all rows are one: the default if it does, else the smallest that does.
  const blocks = TILING.find(({ name }) => name === "row_block")?.values(params) ?? [];
  const holding = blocks.filter((block) => block >= rows);
  const representative = holding.includes(192) ? 192 : (holding[0] ?? rowBlock);
  if (rowBlock >= rows && rowBlock !== (holding.length === blocks.length ? 192 : representative)) return false;
  const streams = rows <= (vectorLanes(arch) === 16 ? tile : 1);
  const tiles = Math.ceil(Math.min(rows, rowBlock) / tile);
  if (!streams && !uneven && !standard("ahead")) return false;
  if (streams && !(standard("few_block") && standard("next"))) return false;
  if ((streams || tiles <= FEW_TILES) && !standard("k_block")) return false;
  if (tiles > FEW_TILES && !uneven && !standard("few_block")) return false;
  return true;
}

/** `tile_vectors` of matmul.hpp: sums beside each row, then those of w and one of x; and the block of a panel that tiles pass over. */
export function tilingFootprint(params: KernelParams, place: TuningPlace): Footprint {
  const { rows } = place;
  const arch = cpuArch(place);
  const tile = Math.min(numberParam(params, "tile_rows") || tileHeight(params, arch), rows);
  const vectors = vectorLanes(arch) === 16 ? 4 : tile === 1 ? 8 : tile <= 3 ? 4 : 2;
  const tiles = Math.ceil(Math.min(rows, numberParam(params, "row_block")) / tile);
  const block = numberParam(params, tiles <= FEW_TILES ? "few_block" : "k_block");
  const weight = Object.entries(params).some(([name, value]) => /^(weight|gate_up|gate)_dtype$/.test(name) && value === "f32") ? 4 : 2;
  return {
    registers: tile * vectors + vectors + 1,
    cacheBytes: tiles > 1 ? block * 64 * weight : 0,
    // How many rows an expert gets is up to the router, and of the router's few columns there is not much to say.
    ...(params.experts === undefined ? { cycles: tilingCycles(params, rows, arch, weight) } : {}),
  };
}

/** Of a core's first cache, and what it gets a cycle from further away. */
const FIRST_CACHE = 48 * 1024;
const FAR_BYTES = 16;

/**
 * Cycles of panel_matmul for one panel: multiplications of a tile, a step of which costs something besides, and more where registers do not hold it; loading and
 * storing its sums once a block; blocks that the first cache does not hold; and the panel, which is read again for each block of rows. Judged in bench/NOTES-tune.md.
 */
function tilingCycles(params: KernelParams, rows: number, arch: CpuArch, weight: number): number {
  const lanes = vectorLanes(arch);
  const number = (name: string): number => numberParam(params, name);
  const tallest = number("tile_rows") || tileHeight(params, arch);
  const rowBlocks = Math.ceil(rows / Math.min(number("row_block"), rows));
  const here = rows / rowBlocks;
  const tiles = Math.ceil(here / tallest);
  const height = here / tiles;
  const most = Math.ceil(height);
  const vectors = lanes === 16 ? 4 : most === 1 ? 8 : most <= 3 ? 4 : 2;
  const few = tiles <= FEW_TILES;
  const k = number("k");
  const block = Math.min(k, few ? number("few_block") : number("k_block"));
  // Without an instruction for pairs halves of w, and of x where it is bf16, are widened in registers of their own.
  const dot = arch === "x86-64-v4-bf16" && params.x === "bf16" && weight === 2;
  const widened = dot ? 0 : params.x === "bf16" ? vectors + 2 : 2;
  const spilled = Math.max(0, most * vectors + vectors + 1 + widened - (lanes === 16 ? 32 : 16));
  const step = (dot ? 1 : 2) * height * vectors + 1.2 + 8 * spilled;
  const tile = (block / 2) * step + 2 * height * vectors;
  const bytes = block * 64 * weight;
  // Few tiles fetch the next block into the same cache.
  const held = bytes * (few && number("next") === 1 ? 2 : 1);
  const missed = held > FIRST_CACHE ? (few ? 0.1 : 0.03) * (1 - FIRST_CACHE / held) : 0;
  // Without that the memory rests while they compute.
  const rests = few && number("next") === 0 ? 2 : 1;
  const passes = 64 / (vectors * lanes);
  return rowBlocks * (k / block) * (tiles * passes * tile * (1 + missed) + (rests * bytes) / FAR_BYTES);
}

export function tilingConstraint(params: KernelParams, place: TuningPlace): boolean {
  return tilingDiffers(params, place, false);
}

/** For experts: how many rows each gets is up to the router. */
export function unevenTilingConstraint(params: KernelParams, place: TuningPlace): boolean {
  return tilingDiffers(params, place, true);
}

export function tilingView(params: KernelParams): View {
  return Object.fromEntries(TILING.map(({ name }) => [name, numberParam(params, name)]));
}

/** Where a tunable is not at its default, the name says so. */
export function tilingName(params: KernelParams): string {
  return TILING.filter(({ name, default: value }) => params[name] !== undefined && params[name] !== value(params))
    .map(({ name }) => `${name.replace("_", "")}${params[name]}`)
    .join("_");
}

/** Sizes and types of x . weight^T, or why no kernel takes it. */
export function productParams(x: Value, weight: Value, rows: Value): KernelParams | string {
  const { dtype, shape } = tensorType(x.type);
  const count = rowsOf(tensorType(rows.type).shape[0]);
  if (dtype !== "f32" && dtype !== "bf16") return `x is ${dtype}, expected f32 or bf16`;
  if (!count || count.times !== 1) return "rows are neither tokens nor sequences";
  if (shape.length !== 2) return "x is no matrix";
  return { n: sizeOf(weight.type, -2), k: sizeOf(weight.type, -1), x: dtype, rows: count.step };
}

/** The weight is read once, x and the result once each. */
export function productCost(params: KernelParams, rows: number, outBytes: number): Cost {
  const [n, k] = [numberParam(params, "n"), numberParam(params, "k")];
  const weight = n * k * (params.weight_dtype === "f32" ? 4 : 2);
  return { bytes: weight + rows * (k * bytesOf(dtypeParam(params, "x")) + n * outBytes), operations: 2 * rows * n * k };
}

function hasBias(node: NodeOf<"linear"> | NodeOf<"linear_swiglu"> | NodeOf<"head_argmax">): boolean {
  return node.operands.bias !== undefined;
}

const linear = defineKernel({
  op: "linear",
  name: "linear",
  order: "sequential-k",
  weights: { weight: PANELS, bias: F32_ROW },
  fit: (node) => {
    const { x, weight } = node.operands;
    const params = productParams(x, weight, x);
    if (typeof params === "string") return params;
    if (node.attrs.dtype !== "f32" && node.attrs.dtype !== "bf16") return `writes no ${node.attrs.dtype}`;
    return { ...params, out: node.attrs.dtype, bias: hasBias(node) };
  },
  tunables: TILING,
  constraint: tilingConstraint,
  footprint: tilingFootprint,
  args: (params) => [
    { name: "x", type: constType(params.x) },
    { name: "weight", type: constType(params.weight_dtype) },
    ...(params.bias ? [{ name: "bias", type: "const float" }] : []),
    { name: "out", type: cType(params.out) },
  ],
  cost: (params, rows) => productCost(params, rows, bytesOf(dtypeParam(params, "out"))),
  file: (params) =>
    joinName(
      "linear",
      params.x as string,
      params.weight_dtype === "f32" && "wf32",
      params.out as string,
      `n${params.n}`,
      `k${params.k}`,
      params.bias && "bias",
      tilingName(params),
    ),
  view: (params) => ({ ...productView(params), out: params.out as string, bias: params.bias as boolean, ...tilingView(params) }),
});

function productView(params: KernelParams): View {
  return { n: numberParam(params, "n"), k: numberParam(params, "k"), x: params.x as string, weight: params.weight_dtype as string };
}

const linearSwiglu = defineKernel({
  op: "linear_swiglu",
  name: "linear_swiglu",
  order: "sequential-k",
  weights: { weight: PANELS, bias: F32_ROW },
  fit: (node) => {
    const { x, weight } = node.operands;
    const { group, dtype } = node.attrs;
    const params = productParams(x, weight, x);
    if (typeof params === "string") return params;
    if (node.operands.norm) return "a norm in front";
    if (![8, 16, 32].includes(group)) return `groups of ${group}, expected 8, 16 or 32`;
    if (dtype !== "f32" && dtype !== "bf16") return `writes no ${dtype}`;
    return { ...params, group, out: dtype, bias: hasBias(node) };
  },
  tunables: TILING,
  constraint: tilingConstraint,
  footprint: tilingFootprint,
  args: (params) => [
    { name: "x", type: constType(params.x) },
    { name: "weight", type: constType(params.weight_dtype) },
    ...(params.bias ? [{ name: "bias", type: "const float" }] : []),
    { name: "out", type: cType(params.out) },
  ],
  cost: (params, rows) => productCost(params, rows, bytesOf(dtypeParam(params, "out")) / 2),
  file: (params) =>
    joinName(
      "linear_swiglu",
      params.x as string,
      params.weight_dtype === "f32" && "wf32",
      params.out as string,
      `m${numberParam(params, "n") / 2}`,
      `k${params.k}`,
      params.group !== 32 && `g${params.group}`,
      params.bias && "bias",
      tilingName(params),
    ),
  view: (params) => {
    const { n, ...rest } = productView(params);
    return {
      ...rest,
      m: (n as number) / 2,
      group: numberParam(params, "group"),
      out: params.out as string,
      bias: params.bias as boolean,
      ...tilingView(params),
    };
  },
});

/** The most threads that a kernel with a slot a thread expects: `max_team` in runtime/device/cpu/kernel.hpp. */
const MAX_TEAM = 256;

/** A value and an id for each row and thread: `head_argmax_workspace`, which the template compares. */
function headWorkspace(rows: number): number {
  return rows * MAX_TEAM * 8;
}

const headArgmax = defineKernel({
  op: "head_argmax",
  name: "head_argmax",
  order: "sequential-k",
  weights: { weight: PANELS, bias: F32_ROW },
  fit: (node) => {
    const { x, weight } = node.operands;
    if (node.operands.norm) return "a norm in front";
    const params = productParams(x, weight, x);
    return typeof params === "string" ? params : { ...params, bias: hasBias(node) };
  },
  tunables: TILING,
  constraint: tilingConstraint,
  footprint: tilingFootprint,
  args: (params) => [
    { name: "x", type: constType(params.x) },
    { name: "weight", type: constType(params.weight_dtype) },
    ...(params.bias ? [{ name: "bias", type: "const float" }] : []),
    { name: "logits", type: "float" },
    { name: "ids", type: "int32_t" },
    { name: "workspace", type: "void" },
  ],
  workspace: (_, rows) => headWorkspace(rows),
  cost: (params, rows) => productCost(params, rows, 4),
  file: (params) =>
    joinName(
      "head_argmax",
      params.x as string,
      params.weight_dtype === "f32" && "wf32",
      `n${params.n}`,
      `k${params.k}`,
      params.bias && "bias",
      tilingName(params),
    ),
  view: (params) => ({
    ...productView(params),
    bias: params.bias as boolean,
    workspace_of_7: headWorkspace(7),
    ...tilingView(params),
  }),
});

export const MATMUL_KERNELS: readonly AnyKernel[] = [linear, linearSwiglu, headArgmax];
