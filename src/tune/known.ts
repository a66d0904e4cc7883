/** What the records of a sweep say already: answers that need not be measured again. */

import type { FinalRecord, JournalRecord, TrialRecord } from "./records.js";
import type { Configuration } from "./space.js";
import { variantKey } from "./task.js";

export class Known {
  readonly #trials = new Map<string, TrialRecord>();
  readonly #tasks = new Set<string>();
  readonly #finals = new Map<string, FinalRecord>();
  /** Seconds of sweeping so far. */
  readonly elapsed: number;

  constructor(records: readonly JournalRecord[]) {
    let elapsed = 0;
    for (const record of records) {
      if (record.kind === "trial") this.#trials.set(trialKey(record.task, record.variant), record);
      else if (record.kind === "task") this.#tasks.add(record.task);
      else if (record.kind === "final")
        this.#finals.set(
          finalKey(
            record.task,
            record.variants.map(({ variant }) => variant),
          ),
          record,
        );
      if ("elapsed" in record) elapsed = Math.max(elapsed, record.elapsed);
    }
    this.elapsed = elapsed;
  }

  hasTask(key: string): boolean {
    return this.#tasks.has(key);
  }
  trial(task: string, variant: Configuration): TrialRecord | undefined {
    return this.#trials.get(trialKey(task, variant));
  }
  final(task: string, variants: readonly Configuration[]): FinalRecord | undefined {
    return this.#finals.get(finalKey(task, variants));
  }
}

function trialKey(task: string, variant: Configuration): string {
  return `${task} | ${variantKey(variant)}`;
}
function finalKey(task: string, variants: readonly Configuration[]): string {
  return [task, ...variants.map(variantKey).sort()].join(" | ");
}
