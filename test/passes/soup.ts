/** Random graphs around a pattern: rows of tokens that ops make of one another, and inputs and weights to run them on. */

import { Builder, type Graph, type Value } from "../../src/ir/graph.js";
import { type Dim, type DType, kvCache, sameType, sym, type TensorType, type Type, tensor } from "../../src/ir/types.js";
import type { RefInputs } from "../../src/reference/evaluate.js";
import { KvStore } from "../../src/reference/kv.js";
import type { Environment, RefValue } from "../../src/reference/meaning.js";
import { stepInputs } from "../../src/reference/session.js";
import { refTensor, sizeOf } from "../../src/reference/tensor.js";

/** Numbers in 0..1 that follow from a seed (mulberry32). */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  int(min: number, max: number): number {
    return min + Math.floor(this.next() * (max - min + 1));
  }

  pick<T>(list: readonly T[]): T {
    return list[this.int(0, list.length - 1)] as T;
  }

  chance(p: number): boolean {
    return this.next() < p;
  }

  /** Roughly normal, as weights and activations are. */
  numbers(count: number): number[] {
    return Array.from({ length: count }, () => (this.next() + this.next() + this.next() - 1.5) * 1.5);
  }
}

export const T = sym("T");
export const S = sym("S");

/** A builder with a pool of values [T, width] to draw from. */
export class Soup {
  readonly b = new Builder("soup", { T: { min: 1, max: 64 }, S: { min: 1, max: 4 }, C: { min: 1, max: 16 } });
  readonly positions = this.b.param("positions", tensor("i32", [T, 3]));
  readonly slots = this.b.param("slots", tensor("i32", [T]));
  readonly queryStart = this.b.param("query_start", tensor("i32", [sym("S", 1, 1)]));
  readonly context = this.b.param("context", tensor("i32", [S]));
  readonly blockTable = this.b.param("block_table", tensor("i32", [S, sym("C")]));
  readonly lastRows = this.b.param("last_rows", tensor("i32", [S]));
  readonly pool: Value[] = [];
  #names = 0;

  constructor(readonly random: Random) {
    for (const width of [8, 16]) this.rows("f32", width);
  }

  /** A new parameter [T, width]. */
  rows(dtype: DType, width: number): Value {
    const value = this.b.param(`x${this.#names++}`, tensor(dtype, [T, width]));
    this.pool.push(value);
    return value;
  }

  cache(dtype: DType, heads: number, headDim: number): Value {
    return this.b.param(`kv${this.#names++}`, kvCache(dtype, heads, headDim));
  }

  weight(shape: readonly number[], dtype: DType = "bf16"): Value {
    return this.b.weight(`w${this.#names++}`, tensor(dtype, shape));
  }

  /** A value to read: of the pool, or of a given width, projected there if need be. */
  any(width?: number, dtype?: DType): Value {
    const fits = this.pool.filter(
      ({ type }) => (width === undefined || widthOf(type) === width) && (dtype === undefined || type.dtype === dtype),
    );
    if (fits.length) return this.random.pick(fits);
    return this.linear(this.any(), width ?? 8, { dtype: dtype ?? "f32" });
  }

  linear(x: Value, width: number, { dtype = "f32" as DType, bias = false } = {}): Value {
    const weight = this.weight([width, widthOf(x.type)]);
    return this.put(this.b.value("linear", { x, weight, bias: bias ? this.weight([width]) : undefined }, { dtype }));
  }

  norm(x: Value, dtype: DType = "f32"): Value {
    return this.put(
      this.b.value("rms_norm", { x, weight: this.weight([widthOf(x.type)]) }, { eps: this.random.pick([1e-5, 1e-6]), dtype }),
    );
  }

  put(value: Value): Value {
    this.pool.push(value);
    return value;
  }

  /** Adds `count` random ops that treat rows one by one. */
  grow(count: number): void {
    for (let i = 0; i < count; i++) this.#step();
  }

  #step(): void {
    const { random, b } = this;
    const dtype = random.pick<DType>(["f32", "f32", "bf16"]);
    const x = this.any();
    switch (random.int(0, 6)) {
      case 0:
        this.norm(x, dtype);
        break;
      case 1:
        this.linear(x, random.pick([8, 16, 24]), { dtype, bias: random.chance(0.3) });
        break;
      case 2:
        this.put(b.value("cast", { x }, { dtype }));
        break;
      case 3: {
        const same = this.pool.filter(({ type }) => sameType(type, x.type));
        this.put(b.value("add", { a: x, b: random.pick(same) }, {}));
        break;
      }
      case 4: {
        const same = this.pool.filter(({ type }) => widthOf(type) === widthOf(x.type));
        this.put(b.value("swiglu", { gate: x, up: random.pick(same) }, { dtype }));
        break;
      }
      case 5: {
        const width = widthOf(x.type);
        const cut = random.int(1, width - 1);
        for (const piece of b.node("split", { x }, { sizes: [cut, width - cut] }).results)
          if (widthOf(piece.type) % 8 === 0) this.put(piece);
        break;
      }
      default:
        this.put(
          b.value(
            "rope",
            { x, positions: this.positions },
            { heads: widthOf(x.type) / 8, head_dim: 8, theta: 10000, sections: [0, 0, 4], dtype },
          ),
        );
    }
  }

  /** Returns `values` and some of the pool. */
  finish(values: { readonly [name: string]: Value }, others: number): Graph {
    for (const [name, value] of Object.entries(values)) this.b.returns(name, value);
    for (let i = 0; i < others; i++) this.b.returns(`other${i}`, this.any());
    return this.b.finish();
  }
}

export function widthOf(type: Type): number {
  return (type as TensorType).shape[1] as number;
}

const BLOCK = 4;

/** Weights that follow from their names, so that a graph reads the same before and after a pass. */
export const environment: Environment = {
  blockSize: BLOCK,
  weights: (name, { dtype, shape }) => {
    const seed = [...name].reduce((hash, c) => Math.imul(hash, 31) + c.charCodeAt(0), 7);
    return refTensor(
      dtype,
      shape as number[],
      new Random(seed).numbers(sizeOf(shape as number[])).map((value) => value / 2),
    );
  },
};

/** Sequences with a past, rows of x, and caches that hold that past. */
export function randomInputs(graph: Graph, random: Random): RefInputs {
  let block = random.int(0, 3);
  const chunks = Array.from({ length: random.int(1, 3) }, () => {
    const [past, count] = [random.int(0, 6), random.int(1, 5)];
    const blocks = Array.from({ length: Math.ceil((past + count) / BLOCK) }, () => block++);
    return { ids: Array.from({ length: count }, () => random.int(0, 7)), past, blocks };
  });
  const symbols = { T: chunks.reduce((sum, { ids }) => sum + ids.length, 0), S: chunks.length };
  const inputs: { [name: string]: RefValue } = { ...stepInputs(chunks, BLOCK) };
  for (const { name, value } of graph.params) {
    if (Object.hasOwn(inputs, name)) continue;
    inputs[name] = value.type.kind === "kv" ? pastOf(chunks, value.type, random) : randomTensor(value.type, symbols, random);
  }
  return inputs;
}

function randomTensor({ dtype, shape }: TensorType, symbols: { T: number; S: number }, random: Random): RefValue {
  const sizes = shape.map((dim: Dim) => (typeof dim === "number" ? dim : symbols[dim.symbol as "T" | "S"] * dim.times + dim.plus));
  return refTensor(dtype, sizes, random.numbers(sizeOf(sizes)));
}

function pastOf(
  chunks: readonly { past: number; blocks: readonly number[] }[],
  type: Extract<Type, { kind: "kv" }>,
  random: Random,
): KvStore {
  const cache = new KvStore(type.dtype, type.heads, type.headDim);
  const width = type.heads * type.headDim;
  for (const { past, blocks } of chunks) {
    for (let i = 0; i < past; i++) {
      const slot = (blocks[Math.floor(i / BLOCK)] as number) * BLOCK + (i % BLOCK);
      cache.put(slot, Float32Array.from(random.numbers(width)), Float32Array.from(random.numbers(width)));
    }
  }
  return cache;
}

/** The same inputs again, with caches that the first run has not changed. */
export function cloneInputs(inputs: RefInputs): RefInputs {
  return Object.fromEntries(Object.entries(inputs).map(([name, value]) => [name, value instanceof KvStore ? value.clone() : value]));
}
