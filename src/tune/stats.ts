/**
 * What a few noisy times say: medians, and intervals for them from order statistics, which assume nothing about the noise. Other processes make
 * times longer, in bursts; so two variants are compared by the ratios of launches that ran one after the other.
 */

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? (sorted[middle] as number) : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

export interface Interval {
  readonly median: number;
  readonly low: number;
  readonly high: number;
}

/** Normal quantiles of the two-sided levels that are used. */
export const Z95 = 1.96;
export const Z999 = 3.29;

/**
 * The sign test's interval: the median lies between the order statistics n/2 -+ z sqrt(n)/2 with the probability of z. Where there are too few
 * values for that, it is all that they span.
 */
export function medianInterval(values: readonly number[], z: number = Z95): Interval {
  const sorted = [...values].sort((a, b) => a - b);
  const n = sorted.length;
  const reach = (z * Math.sqrt(n)) / 2;
  const low = Math.max(0, Math.floor(n / 2 - reach));
  const high = Math.min(n - 1, Math.ceil(n / 2 + reach));
  return { median: median(sorted), low: sorted[low] as number, high: sorted[high] as number };
}

export interface StopRule {
  /** Rounds before the first look. */
  readonly first: number;
  /** A variant loses when it is slower than the incumbent by more than this, with all of the 99.9 % interval of the ratios. */
  readonly loses: number;
  /** It is settled when the 95 % interval is this narrow, in all. */
  readonly settled: number;
  readonly maxRounds: number;
  readonly maxSeconds: number;
}

export const TRIAL_RULE: StopRule = { first: 8, loses: 1.02, settled: 0.01, maxRounds: 256, maxSeconds: 1.0 };
/** The last comparison with the default is worth more time. */
export const FINAL_RULE: StopRule = { first: 64, loses: Number.POSITIVE_INFINITY, settled: 0.004, maxRounds: 2048, maxSeconds: 4 };

/** Of whole packages, whose rounds take as long as a step or a prompt does. */
export const STEP_TRIAL_RULE: StopRule = { ...TRIAL_RULE, maxRounds: 64, maxSeconds: 20 };
export const STEP_FINAL_RULE: StopRule = { ...FINAL_RULE, first: 16, maxRounds: 256, maxSeconds: 90 };

/** Whether to stop after these ratios to the incumbent, and why; looked at each time that the number of rounds has grown by a half. */
export function stopReason(ratios: readonly number[], seconds: number, rule: StopRule): "loses" | "settled" | "limit" | undefined {
  if (ratios.length < rule.first) return seconds >= rule.maxSeconds && ratios.length >= 3 ? "limit" : undefined;
  if (medianInterval(ratios, Z999).low > rule.loses) return "loses";
  const { low, high } = medianInterval(ratios, Z95);
  if (high - low <= rule.settled) return "settled";
  return seconds >= rule.maxSeconds || ratios.length >= rule.maxRounds ? "limit" : undefined;
}

/** How many rounds until the next look. */
export function nextRounds(done: number, secondsARound: number, elapsed: number, rule: StopRule): number {
  const wanted = done === 0 ? 3 : done < rule.first ? rule.first - done : Math.ceil(done / 2);
  const affordable = secondsARound > 0 ? Math.ceil((rule.maxSeconds - elapsed) / secondsARound) : wanted;
  return Math.max(1, Math.min(wanted, rule.maxRounds - done, affordable));
}

/** Clocks have drifted when the incumbent takes so much longer or shorter than when it was recorded. */
const DRIFT = 1.1;

/** The incumbent's time now over what it was, if that is too far from 1 and its interval excludes the old time. */
export function driftOf(recorded: number, times: readonly number[]): number | undefined {
  const now = medianInterval(times, Z95);
  const factor = now.median / recorded;
  const outside = recorded < now.low || recorded > now.high;
  return outside && (factor > DRIFT || factor < 1 / DRIFT) ? factor : undefined;
}
