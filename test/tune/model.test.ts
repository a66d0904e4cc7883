/** The parts of the search by a model: ranks, features, the forest, expected improvement, and the numbers that everything draws. */

import { describe, expect, test } from "vitest";
import { Random } from "../../src/tune/random.js";
import { parameter, Space } from "../../src/tune/space.js";
import { featuresOf } from "../../src/tune/strategies/features.js";
import { Forest } from "../../src/tune/strategies/forest.js";
import { expectedImprovement, rankTargets } from "../../src/tune/strategies/model.js";
import { Results, Untried } from "../../src/tune/strategies/strategy.js";

describe("random numbers", () => {
  test("are these on every machine", () => {
    const random = new Random(1);
    expect(Array.from({ length: 6 }, () => random.below(1000))).toEqual(FIRST);
  });

  test("are uniform and normal, and differ between seeds that are neighbours or far apart", () => {
    const random = new Random(5);
    const uniform = Array.from({ length: 20_000 }, () => random.uniform());
    expect(mean(uniform)).toBeCloseTo(0.5, 1);
    const normal = Array.from({ length: 20_000 }, () => random.normal());
    expect(mean(normal)).toBeCloseTo(0, 1);
    expect(mean(normal.map((x) => x * x))).toBeCloseTo(1, 1);
    const firsts = [0, 1, 2, 2 ** 32, 2 ** 32 + 1, 2 ** 50].map((seed) => new Random(seed).uniform());
    expect(new Set(firsts).size).toBe(firsts.length);
  });
});

/** Of seed 1; another generator would make every recorded sweep another one. */
const FIRST = [537, 454, 82, 153, 652, 623];

describe("targets", () => {
  const targets = (...costs: number[]) => {
    const results = new Results();
    costs.forEach((cost, i) => results.add(i, cost));
    return [...rankTargets(results)];
  };

  test("are ranks: only the order of costs matters, and failures are behind all that ran", () => {
    expect(targets(3, 1, 2)).toEqual(targets(300, 0.1, 200));
    const [fast, slow, failed, alsoFailed] = targets(1, 50, Number.NaN, Number.NaN) as [number, number, number, number];
    expect(fast).toBeLessThan(slow);
    expect(slow).toBeLessThanOrEqual(failed);
    expect(failed).toBe(alsoFailed);
  });

  test("are numbers whatever happened", () => {
    for (const costs of [[1], [Number.NaN], [2, 2, 2], [Number.NaN, 1]])
      for (const target of targets(...costs)) expect(Number.isFinite(target)).toBe(true);
  });
});

describe("expected improvement", () => {
  test("is that of a normal variable", () => {
    // E max(0, best - x) for x normal with mean 0 and deviation 1, at best 0 and 1: 1/sqrt(2 pi), and Phi(1) + phi(1).
    expect(expectedImprovement(0, 0, 1)).toBeCloseTo(0.398942, 5);
    expect(expectedImprovement(1, 0, 1)).toBeCloseTo(0.841345 + 0.241971, 5);
    expect(expectedImprovement(0, 2, 1)).toBeCloseTo(0.008491, 5);
  });

  test("prefers the better mean and the larger spread, and orders where nothing is uncertain", () => {
    expect(expectedImprovement(0, 1, 1)).toBeGreaterThan(expectedImprovement(0, 2, 1));
    expect(expectedImprovement(0, 1, 2)).toBeGreaterThan(expectedImprovement(0, 1, 1));
    expect(expectedImprovement(0, 1, 0)).toBeGreaterThan(expectedImprovement(0, 2, 0));
  });
});

describe("features", () => {
  test("are positions, a column a value where order means nothing, products of sizes; nothing of constants", () => {
    const space = Space.enumerate([
      parameter("x", [1, 2, 4]),
      parameter("y", [1, 2, 4]),
      parameter("kind", ["a", "b", "c"]),
      parameter("constant", [7]),
    ]);
    const columns = featuresOf(space);
    expect(columns).toHaveLength(2 + 3 + 1);
    const at = (x: number, y: number) => space.indexOf({ x, y, kind: "a", constant: 7 }) as number;
    const product = columns.at(-1) as Uint8Array;
    expect(product[at(4, 1)]).toBe(product[at(2, 2)]);
    expect(product[at(4, 4)]).toBeGreaterThan(product[at(4, 2)] as number);
    expect(featuresOf(space)).toBe(columns);
  });

  test("of more values than there are ranks keep their order", () => {
    const space = Space.enumerate([
      parameter(
        "n",
        Array.from({ length: 500 }, (_, i) => i * i),
      ),
    ]);
    const [column] = featuresOf(space) as [Uint8Array];
    for (let i = 1; i < 500; i++) expect(column[i]).toBeGreaterThanOrEqual(column[i - 1] as number);
    expect(new Set(column).size).toBe(64);
  });
});

describe("the forest", () => {
  const space = Space.enumerate([
    parameter(
      "x",
      Array.from({ length: 16 }, (_, i) => i),
    ),
    parameter(
      "y",
      Array.from({ length: 16 }, (_, i) => i),
    ),
  ]);
  const value = (index: number) => ((space.value(index, 0) as number) > 7 ? 1 : 0) + ((space.value(index, 1) as number) > 7 ? 2 : 0);

  test("learns steps, and is less sure where it has seen less", () => {
    const forest = new Forest(featuresOf(space), 30, 2, new Random(3));
    const seen = Array.from({ length: space.size }, (_, i) => i).filter((i) => i % 3 === 0);
    forest.fit(seen, Float64Array.from(seen, value));
    const into = { mean: 0, variance: 0 };
    const errors = Array.from({ length: space.size }, (_, i) => {
      forest.predict(i, into);
      expect(into.variance).toBeGreaterThanOrEqual(0);
      return Math.abs(into.mean - value(i));
    });
    // Saying the mean everywhere would be 1 off.
    expect(mean(errors)).toBeLessThan(0.25);
    const varianceAt = (x: number, y: number) => {
      forest.predict(space.indexOf({ x, y }) as number, into);
      return into.variance;
    };
    expect(varianceAt(8, 8)).toBeGreaterThan(varianceAt(14, 14));
  });

  test("of one result, or of equal ones, predicts it everywhere", () => {
    const forest = new Forest(featuresOf(space), 10, 2, new Random(3));
    for (const seen of [[5], [5, 6, 7, 200]]) {
      forest.fit(seen, new Float64Array(seen.length).fill(4));
      const into = { mean: 0, variance: 0 };
      forest.predict(99, into);
      expect(into).toEqual({ mean: 4, variance: 0 });
    }
  });
});

test("what is untried: each taken once, drawn ones are left, and none at the end", () => {
  const space = Space.enumerate([
    parameter(
      "n",
      Array.from({ length: 50 }, (_, i) => i),
    ),
  ]);
  const untried = new Untried(space, new Random(1));
  expect(untried.take(7)).toBe(true);
  expect(untried.take(7)).toBe(false);
  expect(untried.has(7)).toBe(false);
  const drawn = untried.draw() as number;
  expect(untried.has(drawn)).toBe(true);
  const taken = Array.from({ length: 49 }, () => untried.takeRandom());
  expect(new Set(taken).size).toBe(49);
  expect(taken).not.toContain(7);
  expect([untried.left, untried.draw(), untried.takeRandom()]).toEqual([0, undefined, undefined]);
});

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
