/** The meaning of ops at hand-sized cases: the corners that a model run would not show. */

import { describe, expect, it } from "vitest";
import { OP_NAMES, type OpName } from "../../src/ir/ops.js";
import { parse } from "../../src/ir/parse.js";
import type { DType } from "../../src/ir/types.js";
import { evaluate } from "../../src/reference/evaluate.js";
import { KvStore } from "../../src/reference/kv.js";
import type { Environment, RefValue } from "../../src/reference/meaning.js";
import { applyOp, type LooseRefOperands, MEANINGS } from "../../src/reference/ops.js";
import { type RefTensor, refTensor } from "../../src/reference/tensor.js";

const environment: Environment = {
  blockSize: 2,
  weights: () => {
    throw new Error("no weights here");
  },
};
const t = (shape: readonly number[], values: readonly number[], dtype: DType = "f32") => refTensor(dtype, shape, values);
const ints = (shape: readonly number[], values: readonly number[]) => t(shape, values, "i32");
const run = (op: OpName, operands: LooseRefOperands, attrs: object = {}) =>
  applyOp(op, operands, attrs, environment, []) as readonly RefTensor[];
const numbers = (value: RefValue | undefined) => Array.from((value as RefTensor).data);
const close = (value: RefValue | undefined, expected: readonly number[], digits = 5) => {
  expect(numbers(value)).toHaveLength(expected.length);
  for (const [i, number] of numbers(value).entries()) expect(number).toBeCloseTo(expected[i] as number, digits);
};

it("has a meaning for every op", () => expect(Object.keys(MEANINGS).sort()).toEqual([...OP_NAMES].sort()));

describe("rounding", () => {
  it("goes to nearest, ties to even", () => {
    // bf16 keeps 8 bits: 257 lies half-way between 256 and 258, 259 between 258 and 260.
    close(run("cast", { x: t([1, 3], [257, 259, 256.5]) }, { dtype: "bf16" })[0], [256, 260, 256]);
    close(run("cast", { x: t([1, 2], [2049, 65520]) }, { dtype: "f16" })[0], [2048, Number.POSITIVE_INFINITY]);
    close(run("cast", { x: t([1, 2], [1.9, -1.9]) }, { dtype: "i32" })[0], [1, -1]);
  });

  it("happens once, at the end", () => {
    // The products alone would round to 2^24; in f32 the ones would be lost.
    const x = t([1, 3], [2 ** 24, 1, 1]);
    close(run("linear", { x, weight: t([1, 3], [1, 1, 1]) }, { dtype: "f32" })[0], [2 ** 24 + 2], 0);
  });
});

describe("rows", () => {
  it("rms_norm divides by the root mean square and then multiplies", () => {
    const scale = 1 / Math.sqrt((9 + 16) / 2 + 0.5);
    close(run("rms_norm", { x: t([1, 2], [3, 4]), weight: t([2], [2, -1]) }, { eps: 0.5, dtype: "f32" })[0], [6 * scale, -4 * scale]);
  });

  it("argmax takes the lowest index on ties and never a NaN", () => {
    const x = t(
      [4, 3],
      [1, 2, 2, Number.NaN, -5, -5, Number.NEGATIVE_INFINITY, Number.NaN, Number.NEGATIVE_INFINITY, Number.NaN, Number.NaN, 1],
    );
    expect(numbers(run("argmax", { x })[0])).toEqual([1, 1, 0, 2]);
  });

  it("rope turns adjacent pairs, each by its own rate", () => {
    const attrs = { heads: 1, head_dim: 4, theta: 100, sections: [0, 0, 2], dtype: "f32" };
    const [y] = run("rope", { x: t([1, 4], [1, 0, 0, 1]), positions: ints([1, 3], [3, 7, 7]) }, attrs);
    close(y, [Math.cos(3), Math.sin(3), -Math.sin(0.3), Math.cos(0.3)]);
  });

  it("rope takes h at even and w at odd pairs of the spatial sections, then t", () => {
    const attrs = { heads: 2, head_dim: 6, theta: 1, sections: [1, 1, 1], dtype: "f32" };
    const [y] = run("rope", { x: t([1, 12], [1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]), positions: ints([1, 3], [1, 2, 3]) }, attrs);
    const head = [Math.cos(2), Math.sin(2), Math.cos(3), Math.sin(3), Math.cos(1), Math.sin(1)];
    close(y, [...head, ...head]);
  });

  it("rope multiplies position and rate in f32, as the family was trained", () => {
    const attrs = { heads: 1, head_dim: 128, theta: 500000, sections: [0, 0, 64], dtype: "f32" };
    const x = t(
      [1, 128],
      Array.from({ length: 128 }, (_, i) => (i === 2 ? 1 : 0)),
    );
    const [y] = run("rope", { x, positions: ints([1, 3], [130001, 0, 0]) }, attrs);
    const angle = Math.fround(130001 * Math.fround(500000 ** (-2 / 128)));
    expect(numbers(y)[2]).toBe(Math.fround(Math.cos(angle)));
    expect(Math.abs((numbers(y)[2] as number) - Math.cos(130001 * 500000 ** (-2 / 128)))).toBeGreaterThan(1e-4);
  });

  it("swiglu is silu(gate) * up; linear_swiglu reads interleaved rows", () => {
    const silu = (z: number) => z / (1 + Math.exp(-z));
    close(run("swiglu", { gate: t([1, 2], [1, -2]), up: t([1, 2], [3, 4]) }, { dtype: "f32" })[0], [3 * silu(1), 4 * silu(-2)]);
    const [weight] = run("interleave_rows", { a: t([4, 1], [1, 2, 3, 4]), b: t([4, 1], [5, 6, 7, 8]) }, { group: 2 });
    expect(numbers(weight)).toEqual([1, 2, 5, 6, 3, 4, 7, 8]);
    const [y] = run("linear_swiglu", { x: t([1, 1], [1]), weight }, { group: 2, dtype: "f32" });
    close(y, [5 * silu(1), 6 * silu(2), 7 * silu(3), 8 * silu(4)]);
  });
});

describe("weights", () => {
  const stack = () => run("stack", { parts: [t([2, 2], [1, 2, 3, 4]), t([2, 2], [5, 6, 7, 8])] })[0] as RefTensor;

  it("stack, and everything that takes rows takes them of each matrix", () => {
    expect(stack().shape).toEqual([2, 2, 2]);
    expect(numbers(run("slice_rows", { x: stack() }, { start: 1, length: 1 })[0])).toEqual([3, 4, 7, 8]);
    expect(numbers(run("transpose", { x: stack() })[0])).toEqual([1, 3, 2, 4, 5, 7, 6, 8]);
    const other = t([2, 1, 2], [10, 11, 12, 13]);
    expect(numbers(run("concat_rows", { parts: [stack(), other] })[0])).toEqual([1, 2, 3, 4, 10, 11, 5, 6, 7, 8, 12, 13]);
    expect(numbers(run("concat_rows", { parts: [t([2], [1, 2]), t([1], [3])] })[0])).toEqual([1, 2, 3]);
  });

  it("pack keeps values, whatever the layout", () => {
    const [packed] = run("pack", { x: t([1, 2], [1, 2], "bf16") }, { layout: "panel64", dtype: "f32" });
    expect(packed).toMatchObject({ dtype: "f32", shape: [1, 2] });
    expect(numbers(packed)).toEqual([1, 2]);
  });
});

describe("experts", () => {
  const x = t([1, 1], [1]);
  const router = (logits: readonly number[], correction: readonly number[] | undefined, k: number, normMin = 1e-12) =>
    run(
      "moe_router",
      { x, gate: t([logits.length, 1], logits), correction: correction && t([logits.length], correction) },
      { k, norm_min: normMin },
    );

  it("the router chooses the largest, in order, the lower index on ties", () => {
    const [logits, indices, weights] = router([0, 1, 1, 0], undefined, 3);
    close(logits, [0, 1, 1, 0]);
    expect(numbers(indices)).toEqual([1, 2, 0]);
    const [e, sum] = [Math.E, 2 * Math.E + 1];
    close(weights, [e / sum, e / sum, 1 / sum]);
  });

  it("a correction shifts the choice and not the weights", () => {
    const [, indices, weights] = router([0, 0, 0, 0], [0, 0, 0.5, 0.25], 2);
    expect(numbers(indices)).toEqual([2, 3]);
    close(weights, [0.5, 0.5]);
  });

  it("the sum is not less than norm_min", () => {
    const [, , weights] = router([0, 0], undefined, 1, 2);
    close(weights, [0.25]);
  });

  it("expert_linear gives a row a choice, from a row a token or a row a choice", () => {
    const weight = t([2, 1, 1], [10, 100]);
    const indices = ints([2, 2], [0, 1, 1, 0]);
    expect(numbers(run("expert_linear", { x: t([2, 1], [1, 2]), indices, weight }, { dtype: "f32" })[0])).toEqual([10, 100, 200, 20]);
    expect(numbers(run("expert_linear", { x: t([4, 1], [1, 2, 3, 4]), indices, weight }, { dtype: "f32" })[0])).toEqual([10, 200, 300, 40]);
    expect(numbers(run("moe_combine", { rows: t([4, 1], [1, 2, 3, 4]), indices, weights: t([2, 2], [0.5, 1, 2, 3]) })[0])).toEqual([
      2.5, 18,
    ]);
  });
});

describe("cache and attention", () => {
  const step = { query_start: ints([2], [0, 1]), context: ints([1], [3]), block_table: ints([1, 2], [4, 1]) };
  function filled(): KvStore {
    const cache = new KvStore("f32", 1, 2);
    // Block 4 holds the first two tokens, block 1 the third.
    for (const [slot, k, v] of [
      [8, [0, 0], [1, 10]],
      [9, [0, 0], [2, 20]],
      [2, [1, 0], [3, 30]],
    ] as const)
      cache.put(slot, Float32Array.from(k), Float32Array.from(v));
    return cache;
  }

  it("reads the cache through the block table; two query heads share a kv head", () => {
    const [y] = run("attention", { q: t([1, 4], [0, 0, 2, 0]), cache: filled(), ...step }, { heads: 2, scale: 0.5, dtype: "f32" });
    const [e, sum] = [Math.E, 2 + Math.E];
    close(y, [2, 20, (1 + 2 + 3 * e) / sum, (10 + 20 + 30 * e) / sum]);
  });

  it("is causal in cache order: an earlier row sees less", () => {
    const rows = { ...step, query_start: ints([2], [0, 2]) };
    const [y] = run("attention", { q: t([2, 2], [0, 0, 0, 0]), cache: filled(), ...rows }, { heads: 1, scale: 1, dtype: "f32" });
    close(y, [1.5, 15, 2, 20]);
  });

  it("does not read what was never written, and clones keep their past", () => {
    const cache = filled();
    const copy = cache.clone();
    run("kv_append", { cache, k: t([1, 2], [5, 5]), v: t([1, 2], [5, 5]), slots: ints([1], [3]) });
    expect(cache.get(3).k[0]).toBe(5);
    expect(() => copy.get(3)).toThrow(/slot 3 of the cache, which was never written/);
  });

  it("rounds to what the cache holds", () => {
    const cache = new KvStore("bf16", 1, 2);
    cache.put(0, Float32Array.from([257, 1]), Float32Array.from([259, 1]));
    expect([...cache.get(0).k, ...cache.get(0).v]).toEqual([256, 1, 260, 1]);
  });
});

describe("evaluate", () => {
  const graph = parse(`func @f(%x: f32[T, 2], %last: i32[S]) -> f32[S, 2] bounds {T: 1..4, S: 1..4} {
  %0 = launch %x {op = "cast", kernel = "cast_rows", present = [1], op_attrs = {dtype: "f32"}, params = {vector: 8}} : f32[T, 2]
  %1 = gather_rows %0, %last : f32[S, 2]
  return %1
}`);
  const inputs = { x: t([2, 2], [1, 2, 3, 4]), last: ints([1], [1]) };

  it("runs a launch as the op that it stands for", () => close(evaluate(graph, inputs, environment).out, [3, 4]));

  it("holds inputs to their types", () => {
    expect(() => evaluate(graph, { x: inputs.x }, environment)).toThrow(/no input "last"/);
    expect(() => evaluate(graph, { ...inputs, x: t([2, 3], [1, 2, 3, 4, 5, 6]) }, environment)).toThrow(
      /x: found f32\[2, 3\], the graph says f32\[2, 2\]/,
    );
    expect(() => evaluate(graph, { ...inputs, x: t([2, 2], [1, 2, 3, 4], "bf16") }, environment)).toThrow(/found bf16/);
  });
});
