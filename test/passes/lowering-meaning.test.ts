/**
 * What comes after fusion changes how, not what: random small models mean the same under the reference up to their launches, with any fusions left out;
 * planned memory holds every value for as long as it is read; every step has a bucket. A failure prints the seed that repeats it.
 */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Graph, Node } from "../../src/ir/graph.js";
import { BUFFER_ALIGN } from "../../src/passes/plan/place-buffers.js";
import { evaluate } from "../../src/reference/evaluate.js";
import { KvStore } from "../../src/reference/kv.js";
import type { RefValue } from "../../src/reference/meaning.js";
import { nmse } from "../reference/golden-model.js";
import { FUSIONS, LIMITS, lowerRandom, randomModel } from "./lowering.js";
import { checkMemory } from "./memory-check.js";
import { cloneInputs, environment, Random, randomInputs } from "./soup.js";

const seeds = fc.noShrink(fc.integer({ min: 0, max: 2 ** 31 - 1 }));
const RUNS = { numRuns: 60 };

/** A random model without some of the fusions, lowered. */
function sample(seed: number) {
  const random = new Random(seed);
  const model = randomModel(random);
  return {
    random,
    model,
    ...lowerRandom(
      model,
      FUSIONS.filter(() => random.chance(0.2)),
    ),
  };
}

function bucketsAfter(after: ReadonlyMap<string, readonly Graph[]>, pass: string): readonly Graph[] {
  const graphs = after.get(pass);
  if (!graphs) throw new Error(`${pass} did not run`);
  return graphs;
}

describe("select-layouts, select-kernels", () => {
  it("keep the meaning of every program", () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const { random, fused, after } = sample(seed);
        const inputs = randomInputs(fused, random);
        const expected = evaluate(fused, cloneInputs(inputs), environment);
        for (const pass of ["select-layouts", "select-kernels"]) {
          const graph = random.pick(bucketsAfter(after, pass));
          expectEqual(evaluate(graph, cloneInputs(inputs), environment), expected);
        }
      }),
      RUNS,
    );
  });

  it("leave launches of kernels and weights as packed, and nothing else", () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const { after } = sample(seed);
        for (const graph of bucketsAfter(after, "select-kernels")) {
          const ops = new Set(graph.nodes.map(({ op }) => op));
          for (const op of ["weight", "pack", "concat_rows", "slice_rows", "interleave_rows", "stack", "transpose", "launch"] as const)
            ops.delete(op);
          expect([...ops]).toEqual([]);
        }
      }),
      RUNS,
    );
  });
});

describe("clone-buckets", () => {
  it("leaves a program for every step that the limits allow, and the smallest is no smaller than it must be", () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const { model, after } = sample(seed);
        const buckets = bucketsAfter(after, "clone-buckets").map(({ name, bounds }) => ({
          name,
          tokens: bounds.T?.max ?? 0,
          sequences: bounds.S?.max ?? 0,
        }));
        expect(new Set(buckets.map(({ name }) => name)).size).toBe(buckets.length);
        const most = model.kind === "decode" ? LIMITS.maxBatch : LIMITS.prefillChunk;
        for (let tokens = 1; tokens <= most; tokens++) {
          for (let sequences = 1; sequences <= Math.min(tokens, LIMITS.maxBatch); sequences++) {
            if (model.kind === "decode" && sequences !== tokens) continue;
            if ((model.kind === "score" || model.kind === "trace") && sequences > 1) continue;
            const fitting = buckets.filter((bucket) => bucket.tokens >= tokens && bucket.sequences >= sequences);
            expect(fitting.length, `${tokens} tokens of ${sequences} sequences`).toBeGreaterThan(0);
            if (model.kind === "decode") expect(Math.min(...fitting.map((bucket) => bucket.tokens))).toBeLessThan(2 * tokens);
          }
        }
      }),
      RUNS,
    );
  });
});

describe("plan-weights, plan-memory", () => {
  it("keep every value whole until its last reader, in the smallest step and the largest", () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const { after } = sample(seed);
        const launched = bucketsAfter(after, "plan-weights");
        for (const [i, planned] of bucketsAfter(after, "plan-memory").entries()) checkMemory(launched[i] as Graph, planned, BUFFER_ALIGN);
      }),
      RUNS,
    );
  });

  it("would not go unnoticed if they did not", () => {
    const { after } = sample(1);
    const [launched, planned] = ["plan-weights", "plan-memory"].map((pass) => bucketsAfter(after, pass)[0] as Graph) as [Graph, Graph];
    const inArena = planned.nodes.filter((node) => node.op === "buffer" && node.attrs.space === "arena");
    expect(inArena.length).toBeGreaterThan(10);
    let noticed = 0;
    for (const moved of inArena) {
      // The graph with one buffer at the arena's start.
      const nodes = planned.nodes.map((node) => (node === moved ? ({ ...node, attrs: { ...node.attrs, offset: 0 } } as Node) : node));
      if (moved.op === "buffer" && moved.attrs.offset === 0) continue;
      try {
        checkMemory(launched, { ...planned, nodes }, BUFFER_ALIGN);
      } catch {
        noticed++;
      }
    }
    expect(noticed).toBeGreaterThan(inArena.length / 4);
  });

  it("place every weight once, aligned and apart, and read it in one place from all buckets", () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const { after, weights } = sample(seed);
        let end = 0;
        for (const { offset, bytes } of weights.weights) {
          expect(offset % 256).toBe(0);
          expect(offset).toBeGreaterThanOrEqual(end);
          end = offset + bytes;
        }
        expect(weights.bytes).toBe(end);
        const known = new Set(weights.weights.map(({ offset, bytes }) => `${offset} ${bytes}`));
        for (const graph of bucketsAfter(after, "plan-memory")) {
          const read = new Set<string>();
          for (const node of graph.nodes)
            if (node.op === "buffer" && node.attrs.space === "weights") read.add(`${node.attrs.offset} ${node.attrs.bytes}`);
          expect(read).toEqual(known);
        }
      }),
      RUNS,
    );
  });
});

/** Weights keep every bit and the reference sums in one order, so there is no tolerance but for NaN's sake. */
function expectEqual(found: { readonly [name: string]: RefValue }, expected: { readonly [name: string]: RefValue }): void {
  expect(Object.keys(found)).toEqual(Object.keys(expected));
  for (const [name, value] of Object.entries(expected)) {
    const other = found[name];
    if (value instanceof KvStore) expect((other as KvStore).entries(), name).toEqual(value.entries());
    else expect(nmse((other as Exclude<RefValue, KvStore>).data, value.data), name).toBe(0);
  }
}
