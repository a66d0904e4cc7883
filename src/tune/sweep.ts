/** A sweep as a whole, from the records of its journal: tasks with their trials. What shows or exports a sweep reads this; nothing here measures. */

import { access } from "node:fs/promises";
import { Diagnostic } from "../diagnostics.js";
import { fileError } from "../weights/file.js";
import { readJournal } from "./journal.js";
import type { FinalRecord, JournalRecord, SweepRecord, TaskRecord, TrialRecord } from "./records.js";
import { variantKey } from "./task.js";

export interface SweptTask {
  readonly task: TaskRecord;
  /** In the order of the journal. */
  readonly trials: readonly TrialRecord[];
  readonly final: FinalRecord | undefined;
}

export interface Sweep {
  /** The first run, and each that continued it or was merged into it. */
  readonly sessions: readonly SweepRecord[];
  /** In the order in which they were begun. */
  readonly tasks: readonly SweptTask[];
}

/** Of a journal that must be there; `dropped` says that its last line was cut and left out. */
export async function readSweep(path: string): Promise<{ readonly sweep: Sweep; readonly dropped: boolean }> {
  await access(path).catch((error: unknown) => {
    throw fileError(error, path);
  });
  const { records, dropped } = await readJournal(path);
  if (records.length === 0)
    throw new Diagnostic({
      code: "tune-no-trials",
      message: "found a journal with nothing in it, expected a sweep's",
      place: path,
      hint: "`ernie-compile tune <model> --journal <file>` writes one",
    });
  return { sweep: sweepOf(records), dropped };
}

/** A gain below this is not worth a kernel that differs from the default, and on another day may be a loss. */
const LEAST_GAIN = 0.99;

/** The fastest of the variants whose whole interval is faster than the default by that, else the default; undefined where that was not timed. */
export function winnerOf(task: TaskRecord, { variants }: FinalRecord): FinalRecord["variants"][number] | undefined {
  const own = variantKey(task.default);
  const standard = variants.find(({ variant }) => variantKey(variant) === own);
  const faster = variants.filter((entry) => entry !== standard && entry.ratioHigh < LEAST_GAIN);
  // Of equals the first by its key, so that the order of a journal decides nothing.
  faster.sort((a, b) => a.ratio - b.ratio || (variantKey(a.variant) < variantKey(b.variant) ? -1 : 1));
  return standard && (faster[0] ?? standard);
}

/** Trials without a task record before them are not possible in a journal that `readJournal` gave; they are left out. */
export function sweepOf(records: readonly JournalRecord[]): Sweep {
  const sessions: SweepRecord[] = [];
  const tasks = new Map<string, { task: TaskRecord; trials: TrialRecord[]; final: FinalRecord | undefined }>();
  for (const record of records) {
    if (record.kind === "sweep") sessions.push(record);
    else if (record.kind === "task") {
      // A run that continues a journal may say again what its tasks are.
      if (!tasks.has(record.task)) tasks.set(record.task, { task: record, trials: [], final: undefined });
    } else if (record.kind === "trial") tasks.get(record.task)?.trials.push(record);
    else {
      const found = tasks.get(record.task);
      if (found) found.final = record;
    }
  }
  return { sessions, tasks: [...tasks.values()] };
}

/** One trial for each variant, the last: merged journals may hold one twice. In the order of the last. */
export function lastTrials(trials: readonly TrialRecord[]): TrialRecord[] {
  const byVariant = new Map<string, TrialRecord>();
  for (const trial of trials) {
    const key = variantKey(trial.variant);
    byVariant.delete(key);
    byVariant.set(key, trial);
  }
  return [...byVariant.values()];
}

/** Whether it can be compared: it was right and it was timed. */
export function isTimed(trial: TrialRecord): trial is TrialRecord & { readonly seconds: number } {
  return trial.status === "ok" && trial.seconds !== undefined && Number.isFinite(trial.seconds) && trial.seconds > 0;
}
