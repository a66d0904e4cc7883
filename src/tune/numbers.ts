/** Numbers to try kernels on: made from a seed, the same here and in runtime/tools/tune.cpp, which fills weights too large to be sent. */

import { bf16ToF32, f32ToBf16 } from "../weights/half.js";
import { elementsOf, type Operand } from "./problems.js";
import { Random } from "./random.js";
import type { Task } from "./task.js";

function mix(x: number): number {
  let h = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
  return (h ^ (h >>> 16)) >>> 0;
}

/** Elements of a weight by index: uniform in +-2^(exponent - 1), rounded to its type. Every step is exact but the last. */
export function weightNumbers(seed: number, stream: number, exponent: number, dtype: Operand["dtype"]): (index: number) => number {
  const fill = weightFiller(seed, stream, exponent, dtype);
  const one = new Float32Array(1);
  return (index) => {
    fill(one, 0, index, 1);
    return one[0] as number;
  };
}

/** Puts elements from `index` on into an array. A large model's experts are some ten million. */
export function weightFiller(
  seed: number,
  stream: number,
  exponent: number,
  dtype: Operand["dtype"],
): (into: Float32Array, at: number, index: number, count: number) => void {
  const base = mix(seed ^ Math.imul(stream, 0x9e3779b9));
  const scale = 2 ** exponent;
  const float = new Float32Array(1);
  const bits = new Uint32Array(float.buffer);
  return (into, at, index, count) => {
    for (let i = 0; i < count; i++) {
      const value = ((mix((index + i + base) | 0) >>> 8) * 2 ** -24 - 0.5) * scale;
      if (dtype !== "bf16") {
        into[at + i] = value;
        continue;
      }
      float[0] = value;
      const pattern = bits[0] as number;
      bits[0] = (pattern + 0x7fff + ((pattern >>> 16) & 1)) & 0xffff0000;
      into[at + i] = float[0] as number;
    }
  };
}

/** Inputs that are made as weights are, by a formula: all but the choice of experts and what they weigh. Large ones are then never sent. */
export function isMade({ op }: Task, { name, role, dtype }: Operand): boolean {
  return role === "input" && dtype !== "i32" && !(op === "moe_ffn" && name === "weights");
}

/** Uniform in [-1, 1). */
export const INPUT_EXPONENT = 1;

/** So that results are about as large as inputs, and gates neither shut nor wide open. */
export function weightExponent({ shape }: Operand): number {
  return Math.round(Math.log2(6 / Math.sqrt(shape.at(-1) as number))) || 0;
}

export type InputData = Float32Array | Int32Array;

/** Fresh inputs of a task that are sent: experts all different within a row, weights of experts positive. */
export function inputNumbers(task: Task, operands: readonly Operand[], seed: number): ReadonlyMap<string, InputData> {
  const random = new Random(seed);
  const experts = typeof task.problem.experts === "number" ? task.problem.experts : 0;
  const data = new Map<string, InputData>();
  for (const operand of operands) {
    const { name, role, dtype, shape } = operand;
    if (role !== "input" || isMade(task, operand)) continue;
    const count = elementsOf(shape);
    if (dtype === "i32") {
      data.set(name, chosenExperts(random, shape, experts));
      continue;
    }
    data.set(
      name,
      Float32Array.from({ length: count }, () => {
        const value = random.uniform();
        return dtype === "bf16" ? bf16ToF32(f32ToBf16(value)) : value;
      }),
    );
  }
  return data;
}

function chosenExperts(random: Random, [rows = 0, chosen = 0]: readonly number[], experts: number): Int32Array {
  const out = new Int32Array(rows * chosen);
  const ids = Int32Array.from({ length: experts }, (_, i) => i);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < chosen; i++) {
      const j = i + random.below(experts - i);
      [ids[i], ids[j]] = [ids[j] as number, ids[i] as number];
      out[row * chosen + i] = ids[i] as number;
    }
  }
  return out;
}

/** As the kernel reads it. */
export function toBytes(data: InputData, dtype: Operand["dtype"]): Uint8Array {
  if (dtype !== "bf16") return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const halves = Uint16Array.from(data, f32ToBf16);
  return new Uint8Array(halves.buffer);
}

/** What a kernel wrote, as numbers. */
export function fromBytes(bytes: Uint8Array, dtype: Operand["dtype"]): Float32Array | Int32Array {
  // A Buffer shares its memory with others, also a slice of one.
  const copy = new Uint8Array(bytes);
  if (dtype === "i32") return new Int32Array(copy.buffer);
  if (dtype === "f32") return new Float32Array(copy.buffer);
  const halves = new Uint16Array(copy.buffer);
  const wide = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) wide[i] = (halves[i] as number) << 16;
  return new Float32Array(wide.buffer);
}
