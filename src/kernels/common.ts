/** What the entries of the kernel table share: how element types and parameters look in C++, and formats of weights. */

import type { DType } from "../ir/types.js";
import type { WeightFormat } from "./kernel-def.js";

/** As kernel headers name them; `cpu::Bf16` is in runtime/device/cpu/simd.hpp. */
const C_TYPES: { readonly [dtype in DType]: string } = {
  f32: "float",
  bf16: "cpu::Bf16",
  f16: "uint16_t",
  i32: "int32_t",
  i64: "int64_t",
  u8: "uint8_t",
};

export function cType(dtype: unknown): string {
  return C_TYPES[dtype as DType];
}

export function constType(dtype: unknown): string {
  return `const ${cType(dtype)}`;
}

export const PANELS: readonly WeightFormat[] = [
  { layout: "panel64", dtype: "bf16" },
  { layout: "panel64", dtype: "f32" },
];
/** Biases and the like: few, and read as f32. */
export const F32_ROW: readonly WeightFormat[] = [{ layout: "row", dtype: "f32" }];

/** A float as C++ source that gives exactly this float. */
export function cFloat(value: number): string {
  const text = String(value);
  return /[.e]/.test(text) ? text : `${text}.0`;
}

/** `bf16_f32` and so on, for names. */
export function joinName(...parts: readonly (string | number | boolean | undefined)[]): string {
  return parts.filter((part) => part !== undefined && part !== "" && part !== false).join("_");
}
