/** What packing means, element by element, in the plainest form: the packer's tests compare its files with these bytes. */

import type { Layout } from "../../src/ir/types.js";
import { bf16ToF32, f16ToF32, f32ToBf16 } from "../../src/weights/half.js";
import type { PackDType, PackedWeight, PackPart, PackSourceDType } from "../../src/weights/pack-plan.js";

/** The bits of one element of a part, in the type of the packed weight; `row` counts from rowStart. */
function elementBits(part: PackPart, file: Buffer, row: number, k: number, dtype: PackDType): number {
  const n = part.rowStart + row;
  const index = part.transposed ? k * part.cols + n : n * part.cols + k;
  return convert(
    part.dtype,
    part.dtype === "f32" ? file.readUInt32LE(part.offset + index * 4) : file.readUInt16LE(part.offset + index * 2),
    dtype,
  );
}

function convert(from: PackSourceDType, bits: number, to: PackDType): number {
  if (from === to) return bits;
  const value =
    from === "f32" ? (new Float32Array(Uint32Array.of(bits).buffer)[0] as number) : from === "f16" ? f16ToF32(bits) : bf16ToF32(bits);
  return to === "bf16" ? f32ToBf16(value) : (new Uint32Array(Float32Array.of(value).buffer)[0] as number);
}

/** Where packed row `row` comes from. */
function sourceOf(parts: readonly PackPart[], interleave: number, row: number): [part: PackPart, row: number] {
  if (interleave > 0) {
    const turn = Math.floor(row / interleave);
    return [parts[turn % 2] as PackPart, Math.floor(turn / 2) * interleave + (row % interleave)];
  }
  let start = 0;
  for (const part of parts) {
    if (row < start + part.rowCount) return [part, row - start];
    start += part.rowCount;
  }
  throw new Error("a row past the parts");
}

export function placeOf(layout: Layout, n: number, k: number, row: number, col: number): number {
  if (layout === "row") return row * k + col;
  const paddedN = Math.ceil(n / 16) * 16;
  const paddedK = Math.ceil(k / 2) * 2;
  const panel = Math.floor(row / 64);
  const width = Math.min(64, paddedN - panel * 64);
  return panel * 64 * paddedK + Math.floor(col / 2) * (width * 2) + (row % 64) * 2 + (col % 2);
}

/** The bytes of a weight, padding included. */
export function packReference({ dtype, layout, shape, interleave, slabs }: Omit<PackedWeight, "offset">, files: readonly Buffer[]): Buffer {
  const [count, n, k] = shape;
  const elements = layout === "row" ? n * k : Math.ceil(n / 16) * 16 * Math.ceil(k / 2) * 2;
  const out = dtype === "bf16" ? new Uint16Array(count * elements) : new Uint32Array(count * elements);
  for (const [slab, parts] of slabs.entries()) {
    for (let row = 0; row < n; row++) {
      const [part, partRow] = sourceOf(parts, interleave, row);
      for (let col = 0; col < k; col++) {
        out[slab * elements + placeOf(layout, n, k, row, col)] = elementBits(part, files[part.file] as Buffer, partRow, col, dtype);
      }
    }
  }
  return Buffer.from(out.buffer);
}

/** What `--unpack` gives for a weight: each part's own submatrix as it lies in its file, converted. */
export function unpackReference({ dtype, shape, slabs }: Omit<PackedWeight, "offset">, files: readonly Buffer[]): Buffer {
  const out = new (dtype === "bf16" ? Uint16Array : Uint32Array)(shape[0] * shape[1] * shape[2]);
  let at = 0;
  for (const part of slabs.flat()) {
    const [rows, cols] = part.transposed ? [shape[2], part.rowCount] : [part.rowCount, shape[2]];
    const file = files[part.file] as Buffer;
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < cols; j++)
        out[at++] = part.transposed ? elementBits(part, file, j, i, dtype) : elementBits(part, file, i, j, dtype);
    }
  }
  return Buffer.from(out.buffer);
}
