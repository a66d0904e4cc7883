/** Times variants that are right, in turns, for as long as the rule of stats.ts says; and what the times come to. */

import type { Incumbent } from "./backend.js";
import type { Harness } from "./harness.js";
import type { Finalist, Measured } from "./records.js";
import type { Configuration } from "./space.js";
import {
  driftOf,
  FINAL_RULE,
  type Interval,
  median,
  medianInterval,
  nextRounds,
  type StopRule,
  stopReason,
  TRIAL_RULE,
  Z999,
} from "./stats.js";

export interface Run {
  readonly harness: Pick<Harness, "time">;
  /** Variants: the candidate, then the incumbent; of a final all, the default first. */
  readonly count: number;
}

export async function timeTrial(run: Run, incumbent: Incumbent | undefined, rule = TRIAL_RULE): Promise<Measured> {
  const { times, stopped } = await timeUntil(run, rule, incumbent ? 1 : undefined);
  const own = medianInterval((times[0] as number[]).map((ns) => ns / 1e9));
  const samples = (times[0] as number[]).length;
  if (!incumbent) return { status: "ok", seconds: own.median, low: own.low, high: own.high, samples, stopped };
  const base = (times[1] as number[]).map((ns) => ns / 1e9);
  const ratio = medianInterval(ratios(times, 0, 1));
  const drift = driftOf(incumbent.seconds, base);
  return {
    status: "ok",
    seconds: incumbent.seconds * ratio.median,
    low: incumbent.seconds * ratio.low,
    high: incumbent.seconds * ratio.high,
    samples,
    incumbent: incumbent.variant,
    ratio: ratio.median,
    stopped,
    ...(drift === undefined ? {} : { drift }),
  };
}

export async function timeFinal(run: Run, variants: readonly Configuration[], rule = FINAL_RULE): Promise<readonly Finalist[]> {
  const { times } = await timeUntil(run, rule, undefined);
  const standard = medianInterval((times[0] as number[]).map((ns) => ns / 1e9));
  return variants.map((variant, i) => {
    // Of some dozen finalists one would pass at 95 % by chance.
    const ratio = medianInterval(ratios(times, i, 0), Z999);
    const times95 = i === 0 ? standard : scaled(medianInterval(ratios(times, i, 0)), standard.median);
    return {
      variant,
      seconds: times95.median,
      low: times95.low,
      high: times95.high,
      ratio: ratio.median,
      ratioLow: ratio.low,
      ratioHigh: ratio.high,
    };
  });
}

/** The default's time times a ratio to it: two medians by themselves may tell another story than launches that ran in turns. */
function scaled({ median: middle, low, high }: Interval, by: number): Interval {
  return { median: middle * by, low: low * by, high: high * by };
}

/** Rounds until the rule says that it is enough: for the ratio to the variant `base`, or where there is none for the spread of the first's times. */
async function timeUntil({ harness, count }: Run, rule: StopRule, base: number | undefined) {
  const which = Array.from({ length: count }, (_, i) => i);
  const times: number[][] = which.map(() => []);
  let seconds = 0;
  for (;;) {
    const done = (times[0] as number[]).length;
    const more = await harness.time(nextRounds(done, done === 0 ? 0 : seconds / done, seconds, rule), which);
    for (const [i, list] of more.times.entries()) {
      times[i]?.push(...list);
      seconds += (more.launches * list.reduce((sum, ns) => sum + ns, 0)) / 1e9;
    }
    const own = times[0] as number[];
    const centre = median(own);
    const looked = base !== undefined ? ratios(times, 0, base) : count > 1 ? ratios(times, 1, 0) : own.map((ns) => ns / centre);
    const stopped = stopReason(looked, seconds, rule);
    if (stopped) return { times, stopped };
  }
}

/** Of launches that ran one after the other. */
function ratios(times: readonly (readonly number[])[], a: number, b: number): number[] {
  return (times[a] as number[]).map((ns, i) => ns / ((times[b] as number[])[i] as number));
}
