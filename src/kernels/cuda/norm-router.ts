/** The norm and the router of a decode step, also beside the shared experts' first product: runtime/device/cuda/norm_router.cuh. */

import type { NodeOf } from "../../ir/graph.js";
import { cFloat, joinName } from "../common.js";
import { type CudaLaunch, ONE, perRows } from "../cuda-launch.js";
import { type AnyKernel, type KernelParams, numberParam, tensorType } from "../kernel-def.js";
import { productParams } from "../matmul.js";
import type { View } from "../view.js";
import { BF16_ROWS, ceilDiv, defineCuda, F32_ROWS } from "./define.js";
import { MULTIPROCESSORS, type Tiling, tilingFor } from "./tiling.js";

/** Blocks that share out the logits of a group of tokens: alone, and beside a product, whose tiles want the other multiprocessors. */
const ROUTERS = { alone: 16, beside: 4 } as const;
/** Tokens of a group. */
const MOST = 8;
/** A thread has so many values of each row; more rows than fit in registers make another group. */
const COLUMNS = 8;
const WARPS = { least: 4, most: 12 } as const;
function routerWarps(params: KernelParams): number {
  return Math.min(WARPS.most, Math.max(WARPS.least, ceilDiv(numberParam(params, "hidden"), 32 * COLUMNS)));
}
/** Tokens that there are counters for. */
const MOST_ROWS = 65_536;

const WEIGHTS = { norm: BF16_ROWS, gate: [...F32_ROWS, ...BF16_ROWS], correction: F32_ROWS };

export function fitRouter(node: NodeOf<"norm_router"> | NodeOf<"router_swiglu">): KernelParams | string {
  const { x, gate, correction } = node.operands;
  const params = productParams(x, gate, x);
  if (typeof params === "string") return params;
  const { n: experts, k: hidden, ...rest } = params;
  if (params.x !== "f32" || node.attrs.dtype !== "bf16") return "other rows than f32, rounded to bf16";
  if (tensorType(x.type).shape.length !== 2 || params.times !== undefined) return "rows that are neither tokens nor sequences";
  if (numberParam(params, "n") > 256) return "more than 256 experts";
  if (numberParam(params, "k") % 8 !== 0) return "rows that are no multiple of 8";
  const { k, norm_min, eps } = node.attrs;
  return { ...rest, experts: experts as number, hidden: hidden as number, chosen: k, norm_min, eps, correction: correction !== undefined };
}

export function routerArgs(params: KernelParams, middle: readonly { readonly name: string; readonly type: string }[] = []) {
  return [
    { name: "x", type: "const float" },
    { name: "norm", type: "const Bf16" },
    { name: "gate", type: params.gate_dtype === "bf16" ? "const Bf16" : "const float" },
    ...middle,
    ...(params.correction ? [{ name: "correction", type: "const float" }] : []),
    { name: "normed", type: "Bf16" },
    { name: "logits", type: "float" },
    { name: "indices", type: "int32_t" },
    { name: "weights", type: "float" },
  ];
}

export function routerView(params: KernelParams): View {
  return {
    gate: params.gate_dtype as string,
    experts: numberParam(params, "experts"),
    hidden: numberParam(params, "hidden"),
    chosen: numberParam(params, "chosen"),
    norm_min: cFloat(numberParam(params, "norm_min")),
    eps: cFloat(numberParam(params, "eps")),
    correction: params.correction as boolean,
  };
}

export function routerCost(params: KernelParams, rows: number) {
  const size = numberParam(params, "experts") * numberParam(params, "hidden");
  return { bytes: size * (params.gate_dtype === "bf16" ? 2 : 4), operations: 2 * rows * size };
}

export function routerName(op: string, params: KernelParams, ...more: readonly string[]): string {
  const sizes = [`e${params.experts}`, `h${params.hidden}`, `top${params.chosen}`] as const;
  return joinName(op, params.gate_dtype as string, ...sizes, ...more, params.correction && "corrected");
}

const normRouter = defineCuda("norm_router", {
  name: "norm_router",
  order: "sequential-k",
  weights: WEIGHTS,
  fit: fitRouter,
  refuse: (params) => (numberParam(params, "hidden") <= WARPS.most * 32 * COLUMNS ? undefined : "rows that registers have no place for"),
  args: (params) => routerArgs(params),
  cost: routerCost,
  file: (params) => routerName("norm_router", params),
  launch: (params) => ({
    threads: 32 * routerWarps(params),
    grid: [{ constant: ROUTERS.alone }, perRows(MOST), ONE],
    sharedBytes: 0,
  }),
  view: (params) => ({
    ...routerView(params),
    routers: ROUTERS.alone,
    most: MOST,
    warps: routerWarps(params),
    groups: ceilDiv(MOST_ROWS, MOST),
  }),
});

function rowsBytes(params: KernelParams, rows: number): number {
  return 4 * rows * numberParam(params, "hidden");
}

interface BesideRows {
  readonly suffix?: string;
  readonly columns: number;
}

function besideLaunch(params: KernelParams, tiling: Tiling): CudaLaunch {
  const tiles = ceilDiv(numberParam(params, "n"), tiling.rows(params));
  return {
    threads: tiling.threads(params),
    grid: [{ constant: ROUTERS.beside + Math.min(tiles, MULTIPROCESSORS - ROUTERS.beside) }, ONE, ONE],
    sharedBytes: Math.max(tiling.sharedBytes(params)),
    blocksPerMultiprocessor: 1,
  };
}

function routerSwiglu({ suffix, columns }: BesideRows): AnyKernel {
  const k = (params: KernelParams): number => numberParam(params, "hidden");
  // Its blocks go on to their next tiles, as those of the head do.
  const tiling = tilingFor(
    { tokenTiles: 1, columns },
    { role: "expert", rows: 16, n: (params) => numberParam(params, "n"), k, once: false },
  );
  const normed = (params: KernelParams): KernelParams => ({ ...params, norm: true });
  return defineCuda("router_swiglu", {
    name: "router_swiglu",
    ...(suffix === undefined ? {} : { suffix }),
    mostRows: columns,
    order: "sequential-k",
    weights: { ...WEIGHTS, weight: BF16_ROWS },
    fit: (node) => {
      const params = fitRouter(node);
      if (typeof params === "string") return params;
      const { weight } = node.operands;
      const [n] = tensorType(weight.type).shape;
      const { group } = node.attrs;
      if (typeof n !== "number" || n % 16 !== 0 || group % 8 !== 0) return "a width or a group that is no multiple of 8";
      return { ...params, n, group };
    },
    refuse: (params) =>
      rowsBytes(params, columns) <= tiling.sharedBytes(normed(params)) ? undefined : "rows that shared memory has no place for",
    args: (params) => [...routerArgs(params, [{ name: "weight", type: "const Bf16" }]), { name: "out", type: "Bf16" }],
    cost: (params, rows) => {
      const { bytes, operations } = routerCost(params, rows);
      const size = numberParam(params, "n") * numberParam(params, "hidden");
      return { bytes: bytes + 2 * size, operations: operations + 2 * rows * size };
    },
    file: (params) => routerName("router_swiglu", params, `m${numberParam(params, "n") / 2}`, `g${params.group}`),
    launch: (params) => besideLaunch(normed(params), tiling),
    view: (params) => {
      const { once: _, residents: __, token_tiles: ___, ...cut } = tiling.view(normed(params)) as { readonly [name: string]: View[string] };
      return {
        ...routerView(params),
        routers: ROUTERS.beside,
        most: columns,
        m: numberParam(params, "n") / 2,
        group: numberParam(params, "group"),
        shared_bytes: tiling.sharedBytes(normed(params)),
        ...cut,
      };
    },
  });
}

export const CUDA_NORM_ROUTER_KERNELS: readonly AnyKernel[] = [
  normRouter,
  ...[{ suffix: "x1", columns: 1 }, { columns: 8 }].map(routerSwiglu),
];
