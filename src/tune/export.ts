/** The formats that a sweep is exported in, a file a task, and the names of the files. */

import { exportKernelTuner } from "./export-kernel-tuner.js";
import { exportT4 } from "./export-t4.js";
import type { SweepRecord } from "./records.js";
import type { Sweep, SweptTask } from "./sweep.js";

interface Format {
  readonly suffix: string;
  readonly of: (task: SweptTask, sessions: readonly SweepRecord[]) => object;
}

export const FORMATS = {
  t4: { suffix: "_T4.json", of: exportT4 },
  "kernel-tuner": { suffix: ".json", of: exportKernelTuner },
} as const satisfies { readonly [name: string]: Format };

export type FormatName = keyof typeof FORMATS;

/** Kernel Tuner's dashboard takes a file as whole by its last three characters, `}`, line break, `}`: nothing may follow. */
export function exportText(format: FormatName, task: SweptTask, { sessions }: Sweep): string {
  return JSON.stringify(FORMATS[format].of(task, sessions), null, 1);
}

/** The tasks of a sweep that have trials, each under a file name that is its own; keys come from a journal, so nothing of a path is left in them. */
export function exportNames({ tasks }: Sweep, format: FormatName): Map<string, SweptTask> {
  const { suffix } = FORMATS[format];
  const names = new Map<string, SweptTask>();
  for (const swept of tasks) {
    if (swept.trials.length === 0) continue;
    const base = swept.task.task.replace(/[^A-Za-z0-9_-]+/g, "_").slice(0, 150) || "task";
    let name = `${base}${suffix}`;
    for (let i = 2; names.has(name); i++) name = `${base}_${i}${suffix}`;
    names.set(name, swept);
  }
  return names;
}
