/**
 * What a value of the graph is: element type x shape x encoding x layout x shard, or a KV cache.
 * Types are frozen plain data; equality is structural. The text form (`bf16[T, 1024]`) is in print.ts and parse.ts.
 */

import { Diagnostic } from "../diagnostics.js";

/** The one list of element types. `bytes` is the size of an element; `float` says whether results are rounded to it. */
export const DTYPES = {
  f32: { bytes: 4, float: true },
  bf16: { bytes: 2, float: true },
  f16: { bytes: 2, float: true },
  i32: { bytes: 4, float: false },
  i64: { bytes: 8, float: false },
  u8: { bytes: 1, float: false },
} as const;
export type DType = keyof typeof DTYPES;

/** Sizes known only when a step runs: T tokens in this step, S sequences in it, C entries per row of the block table. */
export const SYMBOLS = ["T", "S", "C"] as const;
export type DimSymbol = (typeof SYMBOLS)[number];

/** `times` symbols, plus `plus`: `3*T`, `S+1`. */
export interface SymDim {
  readonly symbol: DimSymbol;
  readonly times: number;
  readonly plus: number;
}
export type Dim = number | SymDim;

/** Inclusive bounds of a symbol in one program or bucket. */
export interface Bounds {
  readonly min: number;
  readonly max: number;
}
export type SymbolBounds = { readonly [K in DimSymbol]?: Bounds };

/** How numbers are encoded: plain, or a quantisation scheme with its group size and axis. */
export type Encoding =
  | { readonly kind: "plain" }
  | { readonly kind: "scheme"; readonly scheme: string; readonly group: number; readonly axis: number };
export const PLAIN: Encoding = Object.freeze({ kind: "plain" });

/** The one list of memory layouts; each is a header in runtime/device/layout. */
export const LAYOUTS = {
  /** Row-major, no padding. */
  row: {},
  /** Panels of 64 rows with pairs of k innermost: one stream for decode, ready for the dot product of two bf16 (runtime/device/layout/panel.hpp). */
  panel64: {},
} as const;
export type Layout = keyof typeof LAYOUTS;

/** Part of a tensor that is split over `parts` devices along `axis`. */
export interface Shard {
  readonly axis: number;
  readonly parts: number;
}

export interface TensorType {
  readonly kind: "tensor";
  readonly dtype: DType;
  readonly shape: readonly Dim[];
  readonly encoding: Encoding;
  readonly layout: Layout;
  readonly shard: Shard | null;
}

/** The paged KV cache of one layer: keys and values of `heads` x `headDim` per token, read through a block table. */
export interface KvType {
  readonly kind: "kv";
  readonly dtype: DType;
  readonly heads: number;
  readonly headDim: number;
}

export type Type = TensorType | KvType;

export function sym(symbol: DimSymbol, times = 1, plus = 0): SymDim {
  return Object.freeze({ symbol, times, plus });
}

export interface TensorOptions {
  readonly encoding?: Encoding;
  readonly layout?: Layout;
  readonly shard?: Shard | null;
}

export function tensor(
  dtype: DType,
  shape: readonly Dim[],
  { encoding = PLAIN, layout = "row", shard = null }: TensorOptions = {},
): TensorType {
  return Object.freeze({ kind: "tensor", dtype, shape: Object.freeze([...shape]), encoding, layout, shard });
}

export function kvCache(dtype: DType, heads: number, headDim: number): KvType {
  return Object.freeze({ kind: "kv", dtype, heads, headDim });
}

export function sameDim(a: Dim, b: Dim): boolean {
  if (typeof a === "number" || typeof b === "number") return a === b;
  return a.symbol === b.symbol && a.times === b.times && a.plus === b.plus;
}

export function sameShape(a: readonly Dim[], b: readonly Dim[]): boolean {
  return a.length === b.length && a.every((dim, i) => sameDim(dim, b[i] as Dim));
}

export function sameType(a: Type, b: Type): boolean {
  if (a.kind === "kv" || b.kind === "kv") {
    return a.kind === "kv" && b.kind === "kv" && a.dtype === b.dtype && a.heads === b.heads && a.headDim === b.headDim;
  }
  return (
    a.dtype === b.dtype &&
    sameShape(a.shape, b.shape) &&
    a.layout === b.layout &&
    sameEncoding(a.encoding, b.encoding) &&
    a.shard?.axis === b.shard?.axis &&
    a.shard?.parts === b.shard?.parts
  );
}

function sameEncoding(a: Encoding, b: Encoding): boolean {
  if (a.kind === "plain" || b.kind === "plain") return a.kind === b.kind;
  return a.scheme === b.scheme && a.group === b.group && a.axis === b.axis;
}

/** The same dim with `times` times as many: `scaleDim(T, 3)` is `3*T`. */
export function scaleDim(dim: Dim, times: number): Dim {
  return typeof dim === "number" ? dim * times : sym(dim.symbol, dim.times * times, dim.plus * times);
}

/** The largest value a dim takes under `bounds`. */
export function maxDim(dim: Dim, bounds: SymbolBounds): number {
  if (typeof dim === "number") return dim;
  const bound = bounds[dim.symbol];
  if (!bound) throw new Diagnostic({ code: "ir-unbounded-dim", kind: "bug", message: `no bounds for the dim ${dim.symbol}` });
  return dim.times * bound.max + dim.plus;
}

/** The value of a dim when the symbols have `values`. */
export function evalDim(dim: Dim, values: { readonly [K in DimSymbol]?: number }): number {
  if (typeof dim === "number") return dim;
  const value = values[dim.symbol];
  if (value === undefined) throw new Diagnostic({ code: "ir-unbound-dim", kind: "bug", message: `no value for the dim ${dim.symbol}` });
  return dim.times * value + dim.plus;
}
