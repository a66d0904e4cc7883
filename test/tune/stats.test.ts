/** Medians, their intervals, and when a measurement stops: on numbers whose truth is known. */

import { describe, expect, it } from "vitest";
import { Random } from "../../src/tune/random.js";
import { driftOf, median, medianInterval, nextRounds, stopReason, TRIAL_RULE, Z95, Z999 } from "../../src/tune/stats.js";

/** Times as a shared machine gives them: a true one, a little noise, and now and then something much longer. */
function noisy(random: Random, truth: number, count: number): number[] {
  return Array.from({ length: count }, () => truth * (1 + 0.02 * random.uniform() + (random.chance(0.1) ? 3 * random.uniform() : 0)));
}

describe("a median", () => {
  it("is the middle, and its interval lies around it", () => {
    expect([median([3, 1, 2]), median([4, 1, 2, 3])]).toEqual([2, 2.5]);
    expect(medianInterval([5])).toEqual({ median: 5, low: 5, high: 5 });
    expect(medianInterval([1, 2, 3])).toEqual({ median: 2, low: 1, high: 3 });
  });

  it.each([
    [Z95, 0.94],
    [Z999, 0.995],
  ])("has an interval that misses it as rarely as it says (z = %s)", (z, least) => {
    const random = new Random(7);
    for (const count of [9, 30, 101]) {
      let hits = 0;
      for (let i = 0; i < 1000; i++) {
        // The median of uniform numbers is a half.
        const { low, high } = medianInterval(
          Array.from({ length: count }, () => random.uniform()),
          z,
        );
        if (low <= 0.5 && high >= 0.5) hits++;
      }
      expect(hits / 1000).toBeGreaterThanOrEqual(least);
    }
  });
});

describe("a measurement", () => {
  const ratios = (random: Random, ratio: number, count: number): number[] => {
    const [own, other] = [noisy(random, ratio, count), noisy(random, 1, count)];
    return own.map((time, i) => time / (other[i] as number));
  };

  it("stops early at what is surely slower, and never so at what is faster", () => {
    const random = new Random(3);
    let early = 0;
    for (let i = 0; i < 200; i++) {
      expect(stopReason(ratios(random, 0.97, 40), 0, TRIAL_RULE)).not.toBe("loses");
      if (stopReason(ratios(random, 1.2, 40), 0, TRIAL_RULE) === "loses") early++;
    }
    expect(early).toBeGreaterThan(190);
  });

  it("ends when it is settled, or at its limit of time or rounds, and not before the first look", () => {
    expect(stopReason(Array(20).fill(1), 0, TRIAL_RULE)).toBe("settled");
    expect(stopReason([1, 9, 1, 9, 1, 9, 1, 9], 2, TRIAL_RULE)).toBe("limit");
    expect(stopReason([9, 9, 9, 9], 0, TRIAL_RULE)).toBeUndefined();
    expect(stopReason([1, 1], 99, TRIAL_RULE)).toBeUndefined();
    expect(stopReason([1, 1, 1], 99, TRIAL_RULE)).toBe("limit");
  });

  it("takes as many rounds as its time affords", () => {
    expect(nextRounds(0, 0, 0, TRIAL_RULE)).toBe(3);
    expect(nextRounds(3, 0.001, 0.003, TRIAL_RULE)).toBe(5);
    expect(nextRounds(100, 0.001, 0.1, TRIAL_RULE)).toBe(50);
    expect(nextRounds(3, 1, 3, TRIAL_RULE)).toBe(1);
    expect(nextRounds(250, 0.0001, 0.1, TRIAL_RULE)).toBe(6);
  });

  it("sees that a clock has drifted, and not that times are noisy", () => {
    const random = new Random(5);
    expect(driftOf(1, noisy(random, 1, 30))).toBeUndefined();
    expect(driftOf(1, noisy(random, 1.3, 30))).toBeCloseTo(1.32, 1);
    expect(driftOf(1, noisy(random, 0.7, 30))).toBeLessThan(0.8);
  });
});
