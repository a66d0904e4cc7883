/**
 * What the report page shows, as plain data: computed here from a sweep, drawn by page/ in the browser. Times are milliseconds. All strings of it
 * may come from a journal and stay strings.
 */

import type { SweepRecord, TaskRecord, TrialRecord, TrialStatus } from "./records.js";
import type { Configuration, Value } from "./space.js";
import { isTimed, lastTrials, type Sweep, type SweptTask, winnerOf } from "./sweep.js";
import { configurationOf, variantKey } from "./task.js";

export interface ReportData {
  readonly device: string;
  /** Cpu, threads, versions, seed and so on: name and text. */
  readonly facts: readonly (readonly [name: string, text: string])[];
  /** What a reader must know before believing the rest. */
  readonly warnings: readonly string[];
  readonly trials: number;
  readonly failed: number;
  /** Of the sweep; runs that went side by side are not added up. */
  readonly seconds: number;
  /** Geometric mean of default / chosen over the tasks that have both; null without any. */
  readonly gain: number | null;
  readonly programs: readonly ReportProgram[];
  readonly tasks: readonly ReportTask[];
}

/** The tuned launches in one step of the model; other work of a step is not in it. */
export interface ReportProgram {
  readonly name: string;
  readonly defaultMs: number;
  readonly chosenMs: number;
}

export interface ReportTask {
  readonly key: string;
  readonly title: string;
  readonly size: number;
  /** Tunables that differ between trials, and their values. */
  readonly parameters: readonly { readonly name: string; readonly values: readonly Value[] }[];
  readonly trials: readonly ReportTrial[];
  /** Positions in `trials`; null where it was not measured or failed. */
  readonly defaultTrial: number | null;
  readonly chosenTrial: number | null;
  readonly gain: ReportGain | null;
  /** Of one launch; null where the device's limits are not known. */
  readonly roof: ReportRoof | null;
}

export interface ReportTrial {
  readonly variant: Configuration;
  readonly status: TrialStatus;
  readonly reason?: string;
  readonly ms?: number;
  readonly low?: number;
  readonly high?: number;
  /** Timing ended early, as it surely loses: the time is what was seen until then. */
  readonly stopped: boolean;
  /** Seconds of the sweep at which it was recorded. */
  readonly at: number;
}

/** default / chosen: above 1 is faster. `again`: both timed afresh and interleaved at the end, not taken from single trials. */
export interface ReportGain {
  readonly ratio: number;
  readonly low: number;
  readonly high: number;
  readonly again: boolean;
}

export interface ReportRoof {
  readonly bytes: number;
  readonly operations: number;
  readonly bytesPerSecond: number;
  readonly operationsPerSecond: number;
  /** The least time that the limits allow. */
  readonly ms: number;
}

/** Re-timings of the incumbent that are this far off mean that clocks or neighbours changed. */
const DRIFT = 0.05;

export function reportData(sweep: Sweep, dropped: boolean): ReportData {
  const tasks = sweep.tasks.map(taskOf);
  const gains = tasks.flatMap(({ gain }) => (gain ? [Math.log(gain.ratio)] : []));
  const trials = tasks.flatMap((task) => task.trials);
  return {
    device: sweep.sessions[0]?.device ?? "unknown device",
    facts: factsOf(sweep.sessions),
    warnings: warningsOf(sweep, dropped),
    trials: trials.length,
    failed: trials.filter(({ status }) => status !== "ok").length,
    seconds: trials.reduce((last, { at }) => Math.max(last, at), 0),
    gain: gains.length === 0 ? null : Math.exp(gains.reduce((sum, gain) => sum + gain, 0) / gains.length),
    programs: programsOf(sweep.tasks, tasks),
    tasks,
  };
}

function factsOf(sessions: readonly SweepRecord[]): ReportData["facts"] {
  const [first] = sessions;
  if (!first) return [];
  const { machine, version, build, strategy, started } = first;
  return [
    ["Processor", machine.gpu ?? machine.cpu],
    ["Architecture", machine.arch],
    ...(machine.gpu ? gpuFacts(machine) : [["Threads", String(machine.threads)] as const]),
    ["Compiler", `ernie-compile ${version}, kernels ${build.slice(0, 12)}`],
    ["Strategy", strategy],
    ["Seed", [...new Set(sessions.map(({ seed }) => seed))].join(", ")],
    ...(sessions.length > 1 ? [["Runs", String(sessions.length)] as const] : []),
    ...(started ? [["Started", started.slice(0, 19).replace("T", " ")] as const] : []),
  ];
}

function gpuFacts({ driver, gpuMegahertz, memoryMegahertz }: SweepRecord["machine"]): ReportData["facts"] {
  const clocks = [gpuMegahertz && `${gpuMegahertz} MHz`, memoryMegahertz && `memory ${memoryMegahertz} MHz`].filter(Boolean);
  return [...(driver ? [["Driver", driver] as const] : []), ...(clocks.length > 0 ? [["Clocks", clocks.join(", ")] as const] : [])];
}

function warningsOf({ sessions, tasks }: Sweep, dropped: boolean): string[] {
  const warnings: string[] = [];
  if (dropped) warnings.push("The journal's last line is cut and left out: the sweep was stopped while writing, or is still running.");
  if (new Set(sessions.map(({ device }) => device)).size > 1) warnings.push("The journal holds runs of more than one device class.");
  const drifted = tasks.flatMap(({ trials }) => trials).filter(({ drift }) => drift !== undefined && Math.abs(drift - 1) > DRIFT);
  if (drifted.length > 0) {
    const most = drifted.reduce((worst, { drift = 1 }) => Math.max(worst, Math.abs(drift - 1)), 0);
    warnings.push(
      `In ${drifted.length} trials the incumbent's time had moved by more than ${100 * DRIFT} %, at most ${Math.round(100 * most)} %: clocks or neighbours changed. Times here are ratios to it, taken in turns.`,
    );
  }
  const unfinished = tasks.filter(({ trials, final }) => trials.length > 0 && !final).length;
  if (unfinished > 0)
    warnings.push(`${unfinished} of ${tasks.length} tasks were not timed again at the end: their gains are of single trials.`);
  return warnings;
}

function taskOf({ task, trials, final }: SweptTask): ReportTask {
  const kept = lastTrials(trials);
  const position = new Map(kept.map(({ variant }, i) => [variantKey(variant), i]));
  const at = (variant: Configuration | undefined) => (variant ? (position.get(variantKey(variant)) ?? null) : null);
  const timed = kept.filter(isTimed);
  const own = timed.find(({ variant }) => variantKey(variant) === variantKey(task.default));
  const fastest = timed.reduce<(typeof timed)[number] | undefined>(
    (best, trial) => (best && best.seconds <= trial.seconds ? best : trial),
    undefined,
  );
  const chosen = final && winnerOf(task, final);
  return {
    key: task.task,
    title: titleOf(task),
    size: task.space.size,
    parameters: variedIn(task, kept),
    trials: kept.map((trial) => trialOf(task, trial)),
    defaultTrial: own ? at(own.variant) : null,
    chosenTrial: at(chosen?.variant ?? fastest?.variant),
    gain: chosen
      ? { ratio: 1 / chosen.ratio, low: 1 / chosen.ratioHigh, high: 1 / chosen.ratioLow, again: true }
      : own && fastest
        ? singleGain(own, fastest)
        : null,
    roof: roofOf(task),
  };
}

/** The tunables that differ between trials, with the values that were tried: a constraint may leave one value of many. */
function variedIn({ kernel, space }: TaskRecord, trials: readonly TrialRecord[]): ReportTask["parameters"] {
  const tried = trials.map(({ variant }) => configurationOf(kernel, space.parameters, variant));
  return space.parameters
    .map(({ name, values }) => ({ name, values: values.filter((value) => tried.some((configuration) => configuration[name] === value)) }))
    .filter(({ values }) => values.length > 1);
}

function trialOf({ kernel, space }: TaskRecord, trial: TrialRecord): ReportTrial {
  const { status, reason, elapsed, stopped } = trial;
  const variant = configurationOf(kernel, space.parameters, trial.variant);
  const times = isTimed(trial)
    ? {
        ms: 1000 * trial.seconds,
        ...(trial.low === undefined || trial.high === undefined ? {} : { low: 1000 * trial.low, high: 1000 * trial.high }),
      }
    : {};
  return { variant, status, ...(reason === undefined ? {} : { reason }), ...times, stopped: stopped === "loses", at: elapsed };
}

/** Of two trials that were timed apart, so the interval takes the far end of each. */
function singleGain(own: TrialRecord & { seconds: number }, best: TrialRecord & { seconds: number }): ReportGain {
  if (own === best) return { ratio: 1, low: 1, high: 1, again: false };
  return {
    ratio: own.seconds / best.seconds,
    low: (own.low ?? own.seconds) / (best.high ?? best.seconds),
    high: (own.high ?? own.seconds) / (best.low ?? best.seconds),
    again: false,
  };
}

function roofOf({ cost, limits }: TaskRecord): ReportRoof | null {
  if (!limits || !(limits.bytesPerSecond > 0) || !(limits.operationsPerSecond > 0) || !(cost.bytes > 0)) return null;
  const seconds = Math.max(cost.bytes / limits.bytesPerSecond, cost.operations / limits.operationsPerSecond);
  return { ...cost, ...limits, ms: 1000 * seconds };
}

/** `linear n=1024 k=1024 x=bf16, 1 row`. */
function titleOf({ op, kernel, problem, rows }: TaskRecord): string {
  const sizes = Object.entries(problem).map(([name, value]) => `${name}=${value}`);
  return `${kernel === op ? op : `${op} (${kernel})`} ${sizes.join(" ")}, ${rows} ${rows === 1 ? "row" : "rows"}`;
}

function programsOf(swept: readonly SweptTask[], tasks: readonly ReportTask[]): ReportProgram[] {
  const programs = new Map<string, { name: string; defaultMs: number; chosenMs: number }>();
  tasks.forEach((task, i) => {
    const own = task.defaultTrial === null ? undefined : task.trials[task.defaultTrial]?.ms;
    if (own === undefined || !task.gain) return;
    for (const [name, launches] of Object.entries(swept[i]?.task.launches ?? {})) {
      const program = programs.get(name) ?? { name, defaultMs: 0, chosenMs: 0 };
      program.defaultMs += launches * own;
      program.chosenMs += (launches * own) / task.gain.ratio;
      programs.set(name, program);
    }
  });
  return [...programs.values()];
}
