/**
 * A pass changes how, not what: random graphs with its pattern and with near misses give the same under the reference before and after, fire
 * where they must and say why where they must not. A failure prints the seed that repeats it.
 */

import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Graph } from "../../src/ir/graph.js";
import { parse } from "../../src/ir/parse.js";
import { print } from "../../src/ir/print.js";
import { BUCKET_PASSES, FUSION_PASSES, LAUNCH_PASSES } from "../../src/passes/pipeline.js";
import { runPipeline } from "../../src/passes/run.js";
import { evaluate } from "../../src/reference/evaluate.js";
import { KvStore } from "../../src/reference/kv.js";
import { nmse } from "../reference/golden-model.js";
import { MAKERS, makeSample } from "./samples.js";
import { cloneInputs, environment, Random, randomInputs } from "./soup.js";

/**
 * Sums of f64 in another order differ in the last bit, so a rounding to f32 may fall the other way; where bf16 is about, that bit may become one
 * of bf16, in a few elements.
 */
const toleranceOf = (graph: Graph) => (print(graph).includes("bf16[T") || print(graph).includes("kv<bf16") ? 1e-5 : 1e-10);

function expectSame(before: Graph, after: Graph, seed: number): void {
  const inputs = randomInputs(before, new Random(seed ^ 0x5eed));
  const expected = evaluate(before, cloneInputs(inputs), environment);
  const found = evaluate(after, cloneInputs(inputs), environment);
  expect(Object.keys(found)).toEqual(Object.keys(expected));
  for (const [name, value] of Object.entries(expected)) {
    const other = found[name];
    if (value instanceof KvStore && other instanceof KvStore) {
      const [mine, theirs] = [value.entries(), other.entries()];
      expect(theirs.map(([slot]) => slot)).toEqual(mine.map(([slot]) => slot));
      const numbers = (entries: typeof mine) => entries.flatMap(([, { k, v }]) => [...k, ...v]);
      expect(nmse(numbers(theirs), numbers(mine)), name).toBeLessThan(toleranceOf(before));
    } else if (!(value instanceof KvStore) && other && !(other instanceof KvStore)) {
      if (value.dtype === "i32") expect(other.data).toEqual(value.data);
      else expect(nmse(other.data, value.data), name).toBeLessThan(toleranceOf(before));
    } else expect.fail(`${name} changed its kind`);
  }
}

const seeds = fc.noShrink(fc.integer({ min: 0, max: 2 ** 31 - 1 }));
const passes = [...new Map(FUSION_PASSES.map((pass) => [pass.name, pass])).values()];

describe.each(passes)("$name", (pass) => {
  const maker = MAKERS[pass.name];
  if (!maker) throw new Error(`no samples for ${pass.name}`);

  it("fires on its pattern and keeps the meaning", () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const { graph, fires = [] } = makeSample(maker, new Random(seed), false);
        const { graph: after, reports } = runPipeline(graph, [pass]);
        const applied = reports[0]?.applied.map(({ rule }) => rule) ?? [];
        for (const rule of fires)
          expect(
            applied.some((name) => name.startsWith(rule)),
            `${rule} among ${applied.join(", ")}`,
          ).toBe(true);
        expect(fires.length).toBeGreaterThan(0);
        expectSame(graph, after, seed);
      }),
      { numRuns: 60 },
    );
  });

  it("leaves near misses alone and says why", () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const { graph, guard } = makeSample(maker, new Random(seed), true, true);
        const { graph: after, reports } = runPipeline(graph, [pass]);
        expect(after).toBe(graph);
        expect(reports[0]?.refused.map((miss) => miss.guard)).toEqual(guard === undefined ? [] : expect.arrayContaining([guard]));
        const amidst = makeSample(maker, new Random(seed), true).graph;
        expectSame(amidst, runPipeline(amidst, [pass]).graph, seed);
      }),
      { numRuns: 60 },
    );
  });
});

describe("the whole pipeline", () => {
  it("keeps the meaning, and so does any part of it", () => {
    fc.assert(
      fc.property(
        seeds,
        fc.constantFrom(...Object.values(MAKERS)),
        fc.boolean(),
        fc.subarray(passes),
        fc.nat(12),
        (seed, maker, miss, disabled, limit) => {
          const { graph } = makeSample(maker, new Random(seed), miss);
          expectSame(graph, runPipeline(graph, FUSION_PASSES).graph, seed);
          const disable = disabled.map(({ name }) => name);
          expectSame(graph, runPipeline(graph, FUSION_PASSES, { disable, limit }).graph, seed);
        },
      ),
      { numRuns: 100 },
    );
  });
});

// Those of decode alone look at names and bounds, which no soup has: the graphs of their text tests. A block table is no random input.
describe.each([...LAUNCH_PASSES, ...BUCKET_PASSES].filter(({ name }) => name !== "fuse-rope-attention"))("$name", (pass) => {
  const folder = fileURLToPath(new URL(`./${pass.name}/`, import.meta.url));
  const files = readdirSync(folder).filter((name) => name.endsWith(".ir") && !name.startsWith("near-miss"));

  it.each(files)("keeps the meaning of %s", (file) => {
    const before = parse(readFileSync(`${folder}${file}`, "utf8").split("// ----")[0] as string);
    const { graph: after } = runPipeline(before, [pass]);
    expect(after).not.toBe(before);
    for (const seed of [1, 2, 3]) expectSame(before, after, seed);
  });
});
