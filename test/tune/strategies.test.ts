import { describe, expect, test } from "vitest";
import { parseLandscape } from "../../src/tune/landscape.js";
import { Random } from "../../src/tune/random.js";
import { medianBest, simulate, simulateSeed } from "../../src/tune/simulate.js";
import { STRATEGIES } from "../../src/tune/strategies/index.js";
import { randomStrategy } from "../../src/tune/strategies/random.js";
import { bowl, t4Text } from "./support.js";

const landscape = bowl();

describe.each(STRATEGIES)("strategy $name", (def) => {
  test("asks for every configuration of a small space once, then for none", () => {
    const entries = Array.from({ length: 60 }, (_, i) => ({
      configuration: { a: i % 5, b: Math.floor(i / 5) % 3, c: `v${Math.floor(i / 15)}` },
      cost: i % 7 === 0 ? undefined : 1 + ((i * 31) % 17),
    }));
    const { space, costs } = parseLandscape(t4Text(entries), "small");
    const strategy = def.start(space, new Random(3));
    const asked = new Set<number>();
    for (let index = strategy.ask(); index !== undefined; index = strategy.ask()) {
      asked.add(index);
      strategy.tell(index, costs[index] as number);
    }
    expect(asked.size).toBe(60);
    expect(strategy.ask()).toBeUndefined();
  });

  test("asks ahead of answers without asking twice", () => {
    const strategy = def.start(landscape.space, new Random(5));
    const pending: number[] = [];
    const asked = new Set<number>();
    for (let i = 0; i < 150; i++) {
      const index = strategy.ask() as number;
      expect(asked.has(index)).toBe(false);
      asked.add(index);
      pending.push(index);
      if (pending.length < 8) continue;
      const answered = pending.shift() as number;
      strategy.tell(answered, landscape.costs[answered] as number);
    }
    expect(asked.size).toBe(150);
  });

  test("does not ask for what it was told unasked, as from a journal", () => {
    const strategy = def.start(landscape.space, new Random(9));
    for (let index = 0; index < 1000; index++) strategy.tell(index, landscape.costs[index] as number);
    for (let i = 0; i < 60; i++) {
      const index = strategy.ask() as number;
      expect(index).toBeGreaterThanOrEqual(1000);
      strategy.tell(index, landscape.costs[index] as number);
    }
  });

  test("survives a space where everything fails, and one of a single configuration", () => {
    for (const space of [landscape.space, parseLandscape(t4Text([{ configuration: { a: 1 }, cost: 1 }]), "one").space]) {
      const strategy = def.start(space, new Random(1));
      const asked = new Set<number>();
      for (let i = 0; i < Math.min(60, space.size); i++) {
        const index = strategy.ask() as number;
        asked.add(index);
        strategy.tell(index, Number.NaN);
      }
      expect(asked.size).toBe(Math.min(60, space.size));
      if (space.size === 1) expect(strategy.ask()).toBeUndefined();
    }
  });

  test("is the same for the same seed and another for another", () => {
    const run = (seed: number) => {
      const strategy = def.start(landscape.space, new Random(seed));
      return Array.from({ length: 80 }, () => {
        const index = strategy.ask() as number;
        strategy.tell(index, landscape.costs[index] as number);
        return index;
      });
    };
    expect(run(11)).toEqual(run(11));
    expect(run(11)).not.toEqual(run(12));
  });

  test("comes nearer to the optimum than random sampling", () => {
    if (def === randomStrategy) return;
    const options = { seeds: 15, trials: 100 };
    expect(medianBest(simulate(landscape, def, options), 100)).toBeLessThan(medianBest(simulate(landscape, randomStrategy, options), 100));
  });
});

describe("a simulation", () => {
  test("counts failures, never rises, and reaches the optimum when the space is used up", () => {
    const { best } = simulateSeed(landscape, randomStrategy, 1, 400);
    expect(Object.keys(best)).toEqual(["20", "50", "100", "200", "400"]);
    const values = Object.values(best) as number[];
    for (let i = 1; i < values.length; i++) expect(values[i]).toBeLessThanOrEqual(values[i - 1] as number);
    const small = parseLandscape(t4Text([{ configuration: { a: 1 } }, { configuration: { a: 2 }, cost: 3 }]), "small");
    expect(simulateSeed(small, randomStrategy, 1, 400).best["20"]).toBe(1);
  });

  test("says null where all failed so far", () => {
    const entries = Array.from({ length: 300 }, (_, i) => ({ configuration: { a: i }, cost: i === 0 ? 1 : undefined }));
    const { seeds } = simulate(parseLandscape(t4Text(entries), "barren"), randomStrategy, { seeds: 10, trials: 400 });
    expect(seeds.some(({ best }) => best["20"] === null && best["400"] === 1)).toBe(true);
  });
});
