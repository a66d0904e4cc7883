/** Numbers and variants of a sweep as people read them, on a page and on a terminal. */

import type { ReportGain, ReportTask, ReportTrial } from "./report-data.js";
import type { Configuration, Value } from "./space.js";

/** Three digits, in the unit that fits. */
export function time(ms: number): string {
  if (ms >= 1000) return `${digits(ms / 1000)} s`;
  if (ms >= 1) return `${digits(ms)} ms`;
  return ms >= 1e-3 ? `${digits(1000 * ms)} µs` : `${digits(1e6 * ms)} ns`;
}

export function digits(value: number): string {
  const text = value.toPrecision(3);
  return text.includes("e") ? String(Math.round(value)) : text;
}

export function duration(seconds: number): string {
  if (seconds < 120) return `${digits(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${digits(seconds / 3600)} h`;
}

export function gain({ ratio, low, high, again }: ReportGain): string {
  const interval = low === ratio && high === ratio ? "" : ` (${low.toFixed(2)} to ${high.toFixed(2)})`;
  return `${ratio.toFixed(3)}×${interval}${again ? "" : " *"}`;
}

export function value(entry: Value | undefined): string {
  return entry === undefined ? "-" : String(entry);
}

/** Only what differs between a task's trials; all of it where nothing does. */
export function variant(configuration: Configuration, { parameters }: ReportTask): string {
  const shown = parameters.length > 0 ? parameters : Object.keys(configuration).map((name) => ({ name }));
  return shown.map(({ name }) => `${name}=${value(configuration[name])}`).join(" ");
}

/** What the chosen variant changes of the default. */
export function change(task: ReportTask): string {
  const [from, to] = [task.defaultTrial, task.chosenTrial].map((at) => (at === null ? undefined : task.trials[at]?.variant));
  if (!to) return "nothing was right";
  if (!from) return variant(to, task);
  const changed = task.parameters.filter(({ name }) => from[name] !== to[name]);
  return changed.length === 0 ? "the default" : changed.map(({ name }) => `${name} ${value(from[name])} → ${value(to[name])}`).join(", ");
}

/** Of the bandwidth or of the operations a second, whichever bounds the task. */
export function ofLimit({ roof }: ReportTask, trial: ReportTrial | undefined): string {
  if (!roof || trial?.ms === undefined) return "-";
  const what = roof.bytes / roof.bytesPerSecond >= roof.operations / roof.operationsPerSecond ? "bandwidth" : "compute";
  return `${Math.round((100 * roof.ms) / trial.ms)} % of ${what}`;
}

/** For an axis, where a long name would push the others away. */
export function short(text: string): string {
  const plain = text.replace(/\s+/g, " ");
  return plain.length > 9 ? `${plain.slice(0, 8)}…` : plain;
}
