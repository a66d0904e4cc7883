/**
 * A task of a sweep in T4, the interchange format of the auto-tuning community (version 1.0.0, DOI 10.1145/3629527.3651429), so that Kernel Tuner, its
 * dashboard and `tune simulate` read it. A file holds one space, so each task makes a file. Times in T4 are milliseconds.
 */

import { unreachable } from "../diagnostics.js";
import type { SweepRecord, TaskRecord, TrialRecord } from "./records.js";
import type { Configuration } from "./space.js";
import { isTimed, lastTrials, type SweptTask } from "./sweep.js";
import { configurationOf } from "./task.js";

export interface T4Result {
  readonly timestamp?: string;
  readonly configuration: Configuration;
  readonly times: {
    readonly compilation: number;
    readonly framework: number;
    readonly search_algorithm: number;
    readonly validation: number;
    /** Of failed ones none: of a wrong or broken variant times say nothing. */
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
  const results = lastTrials(trials).map((trial) => resultOf(task, trial, sessions));
  return { metadata: metadataOf(task, sessions), results, schema_version: "1.0.0" };
}

function metadataOf(task: TaskRecord, sessions: readonly SweepRecord[]): T4File["metadata"] {
  const [first] = sessions;
  return {
    // So spelled in the files of the collection, and so looked for by what reads them.
    timeunit: "miliseconds",
    made_by: `ernie-compile ${first?.version ?? ""}`.trimEnd(),
    device: task.device,
    hardware: first
      ? {
          cpu: first.machine.cpu,
          ...(first.machine.gpu ? { gpu: first.machine.gpu } : {}),
          threads: first.machine.threads,
          arch: first.machine.arch,
        }
      : {},
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

function resultOf(task: TaskRecord, trial: TrialRecord, sessions: readonly SweepRecord[]): T4Result {
  const timestamp = timestampOf(trial, sessions);
  const invalidity = invalidityOf(trial);
  const correct = invalidity === "correct";
  return {
    ...(timestamp === undefined ? {} : { timestamp }),
    configuration: configurationOf(task.kernel, task.space.parameters, trial.variant),
    times: {
      compilation: milliseconds(trial.compileSeconds ?? 0),
      framework: 0,
      search_algorithm: 0,
      validation: milliseconds(trial.checkSeconds ?? 0),
      runtimes: runtimesOf(trial),
    },
    invalidity,
    correctness: correct ? 1 : 0,
    measurements: [
      {
        name: OBJECTIVE,
        value: timeOf(trial),
        unit: correct ? "ms" : "",
      },
    ],
    objectives: [OBJECTIVE],
  };
}

/** Milliseconds, or the word that Kernel Tuner has for how it failed. */
export function timeOf(trial: TrialRecord): number | string {
  if (isTimed(trial)) return milliseconds(trial.seconds);
  return trial.status === "compile" || trial.status === "spills" ? "CompilationFailedConfig" : "RuntimeFailedConfig";
}

/** Where the runs are not kept, their median stands for them. */
export function runtimesOf(trial: TrialRecord): number[] {
  return isTimed(trial) ? (trial.runs ?? [trial.seconds]).map(milliseconds) : [];
}

function invalidityOf(trial: TrialRecord): T4Result["invalidity"] {
  switch (trial.status) {
    case "ok":
      return isTimed(trial) ? "correct" : "runtime";
    case "wrong":
      return "correctness";
    case "compile":
    case "spills":
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
export function timestampOf({ at, elapsed }: TrialRecord, sessions: readonly SweepRecord[]): string | undefined {
  const started = sessions.length === 1 ? Date.parse(sessions[0]?.started ?? "") : Number.NaN;
  const date = new Date(at ?? started + 1000 * elapsed);
  return Number.isNaN(date.getTime()) ? undefined : date.toISOString().replace("T", " ").replace("Z", "+00:00");
}

/** 12 digits: what a multiplication by 1000 leaves behind them is noise. */
export function milliseconds(seconds: number): number {
  return Number((1000 * seconds).toPrecision(12));
}
