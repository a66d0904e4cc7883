/**
 * Between the two 16-bit floats of checkpoints and f32. Widening is exact; narrowing rounds to nearest, ties to even,
 * and keeps a NaN a NaN. The packer has the same rules in C++ (runtime/pack/convert.hpp); the test holds the two to
 * each other.
 */

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

function bitsOf(value: number): number {
  float[0] = value;
  return bits[0] as number;
}

function floatOf(pattern: number): number {
  bits[0] = pattern;
  return float[0] as number;
}

/** bf16 is the upper half of an f32. */
export function bf16ToF32(half: number): number {
  return floatOf((half & 0xffff) << 16);
}

/** `value` is rounded to f32 first, as everything in a checkpoint is. */
export function f32ToBf16(value: number): number {
  const pattern = bitsOf(value);
  // A NaN whose payload lies in the lower half would round to infinity or wrap to zero: set the quiet bit instead.
  if ((pattern & 0x7fffffff) > 0x7f800000) return (pattern >>> 16) | 0x0040;
  return ((pattern + 0x7fff + ((pattern >>> 16) & 1)) >>> 16) & 0xffff;
}

/** 1 sign bit, 5 exponent bits with bias 15, 10 mantissa bits. */
export function f16ToF32(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 0x1f;
  const mantissa = half & 0x3ff;
  if (exponent === 0x1f) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  return sign * (1024 + mantissa) * 2 ** (exponent - 25);
}

export function f32ToF16(value: number): number {
  const pattern = bitsOf(value);
  const sign = (pattern >>> 16) & 0x8000;
  const magnitude = pattern & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  // 65520 is half-way from the largest f16 to the next power of two, and ties go to the even one, which is infinity.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  // Below the smallest normal f16 the step is 2^-24 throughout: count steps, and a full 1024 of them is that smallest normal.
  if (magnitude < 0x38800000) return sign | roundEven(floatOf(magnitude) * 2 ** 24);
  const rebased = magnitude - (112 << 23);
  return sign | ((rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13);
}

function roundEven(value: number): number {
  const low = Math.floor(value);
  const rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 === 1) ? low + 1 : low;
}

export function widenBf16(halves: Uint16Array): Float32Array {
  const out = new Float32Array(halves.length);
  const outBits = new Uint32Array(out.buffer);
  for (let i = 0; i < halves.length; i++) outBits[i] = (halves[i] as number) << 16;
  return out;
}

export function widenF16(halves: Uint16Array): Float32Array {
  const out = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) out[i] = f16ToF32(halves[i] as number);
  return out;
}

export function roundToBf16(values: ArrayLike<number>): Uint16Array {
  const out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) out[i] = f32ToBf16(values[i] as number);
  return out;
}

export function roundToF16(values: ArrayLike<number>): Uint16Array {
  const out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) out[i] = f32ToF16(values[i] as number);
  return out;
}
