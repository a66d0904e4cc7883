/** A recorded sweep that no machine has to make: every variant of the tasks of a model, with times that follow from a seed, some of them failed. */

import { writeFileSync } from "node:fs";
import { loadModel } from "../../src/frontend/load-model.js";
import { resolveRequest } from "../../src/frontend/model-json.js";
import { kernelGraphs } from "../../src/lower.js";
import { lineSum } from "../../src/tune/journal.js";
import { modelTasks } from "../../src/tune/model-tasks.js";
import type { JournalRecord, SweepRecord, TrialRecord } from "../../src/tune/records.js";
import { seedOf } from "../../src/tune/run-sweep.js";
import { type Task, taskSpace, variantKey } from "../../src/tune/task.js";

export const ARCH = "x86-64-v4-bf16";
export const DEVICE = "x86-64-v4-bf16-recorded-2t";
export const MODEL = "examples/models/ernie-mini-moe";
export const STEPS = { batches: [1, 8], tokens: [64] };

export const SWEEP: SweepRecord = {
  kind: "sweep",
  format: 1,
  version: "0.1.0",
  build: "0123456789abcdef",
  device: DEVICE,
  machine: { cpu: "recorded", threads: 2, arch: ARCH, cacheBytes: 2 ** 20 },
  seed: 1,
  strategy: "model",
};

export async function recordedTasks(model = MODEL, steps = STEPS): Promise<readonly Task[]> {
  const request = await resolveRequest(model, { dryRun: true });
  const { weights } = await loadModel(request);
  return modelTasks(kernelGraphs({ ...request, weights, arch: ARCH, tuning: undefined }), steps, ARCH);
}

/** Each tunable's value makes it slower or faster by some per cent; one variant in ten fails. The default never does. */
export function recordedTrials(task: Task): readonly TrialRecord[] {
  const space = taskSpace(task, ARCH);
  return Array.from({ length: space.size }, (_, i): TrialRecord => {
    const variant = { ...space.configuration(i) };
    const luck = seedOf(task.key, variantKey(variant)) / 2 ** 32;
    const base = { kind: "trial", task: task.key, variant, elapsed: 0 } as const;
    const isDefault =
      variantKey(variant) ===
      variantKey(Object.fromEntries((task.kernel.tunables ?? []).map(({ name, default: value }) => [name, value(task.problem)])));
    if (luck < 0.1 && !isDefault) return { ...base, status: "crash", reason: "ended by SIGSEGV" };
    const factors = Object.entries(variant).map(([name, value]) => 0.9 + (0.2 * seedOf(task.key, name, String(value))) / 2 ** 32);
    const seconds = factors.reduce((product, factor) => product * factor, 1e-4 * (1 + 0.01 * luck));
    return { ...base, status: "ok", seconds, low: seconds * 0.99, high: seconds * 1.01, samples: 50 };
  });
}

export function journalText(records: readonly JournalRecord[]): string {
  let sum = "";
  return records
    .map((record) => {
      const text = JSON.stringify(record);
      sum = lineSum(sum, text);
      return `{"sum":"${sum}","record":${text}}\n`;
    })
    .join("");
}

/** Writes the recording of a model; gives how many variants it has. */
export async function writeRecording(path: string): Promise<number> {
  const trials = (await recordedTasks()).flatMap(recordedTrials);
  writeFileSync(path, journalText([SWEEP, ...trials]));
  return trials.length;
}
