/**
 * A task of a sweep in T4, the interchange format of the auto-tuning community (version 1.0.0, DOI 10.1145/3629527.3651429), so that Kernel Tuner, its
 * dashboard and `tune simulate` read it. A file holds one space, so each task makes a file. Times in T4 are milliseconds.
 */

import { Diagnostic, unreachable } from "../diagnostics.js";
import type { SweepRecord, TaskRecord, TrialRecord } from "./records.js";
import type { Configuration } from "./space.js";
import { isTimed, lastTrials, type Sweep, type SweptTask } from "./sweep.js";

export interface T4Result {
  readonly timestamp?: string;
  readonly configuration: Configuration;
  readonly times: {
    readonly compilation: number;
    readonly framework: number;
    readonly search_algorithm: number;
    readonly validation: number;
    readonly runtimes: readonly number[];
  };
  readonly invalidity: "correct" | "correctness" | "compile" | "runtime" | "timeout";
  readonly correctness: 0 | 1;
  readonly measurements: readonly { readonly name: string; readonly value: number | string; readonly unit: string }[];
  readonly objectives: readonly string[];
}

export interface T4File {
  readonly metadata: { readonly [key: string]: unknown };
  readonly results: readonly T4Result[];
  readonly schema_version: "1.0.0";
}

const OBJECTIVE = "time";

/** What was tried of a task; variants that were never tried are not in it. */
export function exportT4({ task, trials }: SweptTask, sessions: readonly SweepRecord[]): T4File {
  const results = lastTrials(trials).map((trial) => resultOf(trial, sessions));
  if (results.length === 0)
    throw new Diagnostic({
      code: "tune-no-trials",
      message: "found no trial of this task in the journal, expected at least one",
      place: task.task,
      hint: "run the sweep with --resume until it has some",
    });
  return { metadata: metadataOf(task, sessions), results, schema_version: "1.0.0" };
}

/** The tasks of a sweep that have trials, each under a file name that is its own; names come from a journal, so nothing of a path is left in them. */
export function t4FileNames({ tasks }: Sweep): Map<string, SweptTask> {
  const names = new Map<string, SweptTask>();
  for (const swept of tasks) {
    if (swept.trials.length === 0) continue;
    const base = swept.task.task.replace(/[^A-Za-z0-9_-]+/g, "_").slice(0, 150) || "task";
    let name = `${base}_T4.json`;
    for (let i = 2; names.has(name); i++) name = `${base}_${i}_T4.json`;
    names.set(name, swept);
  }
  return names;
}

function metadataOf(task: TaskRecord, sessions: readonly SweepRecord[]): T4File["metadata"] {
  const [first] = sessions;
  return {
    // So spelled in the files of the collection, and so looked for by what reads them.
    timeunit: "miliseconds",
    made_by: `ernie-compile ${first?.version ?? ""}`.trimEnd(),
    device: task.device,
    hardware: first ? { cpu: first.machine.cpu, threads: first.machine.threads, arch: first.machine.arch } : {},
    kernel: task.kernel,
    op: task.op,
    problem: { ...task.problem, rows: task.rows },
    layouts: task.layouts,
    default: task.default,
    search_space: {
      size: task.space.size,
      parameters: Object.fromEntries(task.space.parameters.map(({ name, values }) => [name, values])),
    },
  };
}

function resultOf(trial: TrialRecord, sessions: readonly SweepRecord[]): T4Result {
  const timestamp = timestampOf(trial, sessions);
  const invalidity = invalidityOf(trial);
  const correct = invalidity === "correct";
  return {
    ...(timestamp === undefined ? {} : { timestamp }),
    configuration: { ...trial.variant },
    times: {
      compilation: milliseconds(trial.compileSeconds ?? 0),
      framework: 0,
      search_algorithm: 0,
      validation: milliseconds(trial.checkSeconds ?? 0),
      // Of a wrong or broken variant times say nothing.
      runtimes: correct ? (trial.runs ?? []).map(milliseconds) : [],
    },
    invalidity,
    correctness: correct ? 1 : 0,
    measurements: [
      {
        name: OBJECTIVE,
        value: correct
          ? milliseconds(trial.seconds as number)
          : invalidity === "compile"
            ? "CompilationFailedConfig"
            : "RuntimeFailedConfig",
        unit: correct ? "ms" : "",
      },
    ],
    objectives: [OBJECTIVE],
  };
}

function invalidityOf(trial: TrialRecord): T4Result["invalidity"] {
  switch (trial.status) {
    case "ok":
      return isTimed(trial) ? "correct" : "runtime";
    case "wrong":
      return "correctness";
    case "compile":
      return "compile";
    case "hang":
      return "timeout";
    case "crash":
    case "error":
      return "runtime";
    default:
      return unreachable(trial.status);
  }
}

/** As the collection writes them: `2023-12-22 09:54:05.502+00:00`. Undefined where the journal holds no clock. */
function timestampOf({ at, elapsed }: TrialRecord, sessions: readonly SweepRecord[]): string | undefined {
  const started = sessions.length === 1 ? Date.parse(sessions[0]?.started ?? "") : Number.NaN;
  const date = new Date(at ?? started + 1000 * elapsed);
  return Number.isNaN(date.getTime()) ? undefined : date.toISOString().replace("T", " ").replace("Z", "+00:00");
}

/** 12 digits: what a multiplication by 1000 leaves behind them is noise. */
function milliseconds(seconds: number): number {
  return Number((1000 * seconds).toPrecision(12));
}
