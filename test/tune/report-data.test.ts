import { describe, expect, test } from "vitest";
import type { FinalRecord, TaskRecord, TrialRecord } from "../../src/tune/records.js";
import { inScript } from "../../src/tune/report.js";
import { reportData } from "../../src/tune/report-data.js";
import { sweepOf } from "../../src/tune/sweep.js";
import { HOSTILE, SESSION, sampleSweep } from "./sample-sweep.js";

const task: TaskRecord = {
  ...(sampleSweep(0)[1] as TaskRecord),
  task: "t",
  default: { tile: 1 },
  space: { parameters: [{ name: "tile", values: [1, 2, 4] }], size: 3 },
  cost: { bytes: 1000, operations: 2000 },
  limits: { bytesPerSecond: 1e6, operationsPerSecond: 4e6 },
  launches: { decode: 10, prefill: 2 },
};
const trial = (tile: number, fields: Partial<TrialRecord>): TrialRecord => ({
  ...{ kind: "trial", task: "t", variant: { tile }, status: "ok", elapsed: tile },
  ...fields,
});
const own = trial(1, { seconds: 4e-3, low: 3.9e-3, high: 4.1e-3 });
const best = trial(2, { seconds: 2e-3, low: 1.9e-3, high: 2.1e-3 });
const wrong = trial(4, { status: "wrong", seconds: 1e-3, reason: "NMSE 1" });
const data = (...records: (TrialRecord | FinalRecord)[]) => reportData(sweepOf([SESSION, task, ...records]), false);

describe("what a report says", () => {
  test("the gain of single trials takes the far ends of both intervals; a wrong variant is never chosen", () => {
    const { tasks, gain, trials, failed } = data(own, wrong, best);
    expect(tasks[0]).toMatchObject({ defaultTrial: 0, chosenTrial: 2 });
    expect(tasks[0]?.gain).toEqual({ ratio: 2, low: expect.closeTo(3.9 / 2.1, 12), high: expect.closeTo(4.1 / 1.9, 12), again: false });
    expect(tasks[0]?.trials[1]).not.toHaveProperty("ms");
    expect([gain, trials, failed]).toEqual([expect.closeTo(2, 12), 3, 1]);
  });

  test("what was timed again at the end counts, whatever the trials said, and only what is surely faster is chosen", () => {
    const entry = (tile: number, ratio: number, spread = 0.01) => ({
      ...{ variant: { tile }, seconds: 1, low: 1, high: 1, ratio },
      ...{ ratioLow: ratio - spread, ratioHigh: ratio + spread },
    });
    const after = (...variants: FinalRecord["variants"]) => data(own, best, { kind: "final", task: "t", variants, elapsed: 9 });
    expect(after(entry(2, 1.02), entry(1, 1)).tasks[0]).toMatchObject({ chosenTrial: 0, gain: { ratio: 1, again: true } });
    expect(after(entry(2, 0.95, 0.06), entry(1, 1)).tasks[0]).toMatchObject({ chosenTrial: 0, gain: { ratio: 1 } });
    const { tasks, warnings } = after(entry(2, 0.8), entry(1, 1));
    expect(tasks[0]).toMatchObject({ chosenTrial: 1, gain: { ratio: 1.25, low: 1 / 0.81, again: true } });
    expect(warnings).toEqual([]);
  });

  test("steps of the model: launches by their times, before and after", () => {
    expect(data(own, best).programs).toEqual([
      { name: "decode", defaultMs: 40, chosenMs: 20 },
      { name: "prefill", defaultMs: 8, chosenMs: 4 },
    ]);
  });

  test("only tunables that differ between trials are shown, with the values that were tried", () => {
    expect(data(own, wrong).tasks[0]?.parameters).toEqual([{ name: "tile", values: [1, 4] }]);
    expect(data(own).tasks[0]?.parameters).toEqual([]);
  });

  test("the roof is the slower of moving the bytes and doing the operations", () => {
    expect(data(own).tasks[0]?.roof?.ms).toBe(1);
    const { limits, ...unknown } = task;
    expect(limits).toBeDefined();
    expect(reportData(sweepOf([SESSION, unknown, own]), false).tasks[0]?.roof).toBeNull();
  });

  test("warns of a cut line, of drift, of tasks that were not timed again", () => {
    const { warnings } = reportData(sweepOf([SESSION, task, { ...own, drift: 1.2 }]), true);
    expect(warnings.join("\n")).toMatch(
      /cut and left out[^]*1 trials the incumbent's time had moved by more than 5 %, at most 20 %[^]*1 of 1 tasks/,
    );
  });

  test("nothing measured, nothing right, nothing at all: no gain and no crash", () => {
    expect(data()).toMatchObject({ gain: null, trials: 0, programs: [] });
    expect(data(wrong).tasks[0]).toMatchObject({ gain: null, chosenTrial: null, defaultTrial: null });
    expect(reportData(sweepOf([]), false)).toMatchObject({ device: "unknown device", tasks: [] });
  });

  test("data in the page cannot end its element, and is the same data", () => {
    const text = inScript({ text: HOSTILE });
    expect(text).not.toMatch(/[<\u2028]/);
    expect(JSON.parse(text)).toEqual({ text: HOSTILE });
  });
});
