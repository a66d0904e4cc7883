/** One task: its charts, its fastest variants, and what failed. Charts are drawn when the task is open and near the screen, and again at a new width. */

import { gain, ofLimit, time, variant } from "../format.js";
import type { ReportTask, ReportTrial } from "../report-data.js";
import { type Across, type Chart, roofChart, trialsChart, tunableChart } from "./charts.js";
import { el, table } from "./dom.js";

const FASTEST = 8;
/** Failures of one kind and reason are one row; of more reasons than this the rest is counted. */
const REASONS = 20;

export interface TaskView {
  readonly element: HTMLElement;
  readonly draw: (across: Across) => void;
}

export function taskView(task: ReportTask, all: readonly ReportTask[], id: string, open: boolean): TaskView {
  const places: { readonly element: HTMLElement; readonly chart: (across: Across, width: number) => Chart | undefined }[] = [];
  const place = (chart: (across: Across, width: number) => Chart | undefined, caption: string, ...more: Node[]) => {
    const element = el("div", { class: "chart" });
    places.push({ element, chart });
    return el("figure", {}, el("figcaption", {}, caption, ...more), element);
  };
  const tunables = task.parameters.map(({ name }) => place((_, width) => tunableChart(task, name, width), name));
  const body = el(
    "div",
    { class: "body" },
    place((across, width) => trialsChart(task, across, width), "All trials", legend(task)),
    ...(tunables.length > 0
      ? [
          el("h3", {}, "How each tunable moves the time"),
          el("p", { class: "soft" }, "A dot is a trial; a bar the median of all with that value."),
          el("div", { class: "multiples" }, ...tunables),
        ]
      : []),
    ...(task.roof
      ? [el("h3", {}, "Roofline"), place((_, width) => roofChart(task, all, width), "Above is faster; the line is what the device allows")]
      : []),
    el("h3", {}, "Fastest variants"),
    fastest(task),
    ...failures(task),
  );
  const element = el(
    "details",
    { class: "task", id },
    el(
      "summary",
      {},
      el("span", { class: "title" }, task.title),
      el("span", { class: "gain" }, task.gain ? gain(task.gain) : "no gain known"),
    ),
    body,
  );
  element.open = open;
  return {
    element,
    draw: (across) => {
      if (!element.open) return;
      for (const { element: target, chart } of places) {
        const width = Math.floor(target.clientWidth);
        const drawn = width > 0 ? chart(across, width) : undefined;
        if (drawn) target.replaceChildren(drawn);
      }
    },
  };
}

function legend(task: ReportTask): HTMLElement {
  const entry = (name: string, text: string) => el("span", {}, el("i", { class: `swatch ${name}` }), text);
  return el(
    "span",
    { class: "legend" },
    entry("ok", "timed"),
    task.trials.some(({ stopped }) => stopped) ? entry("stopped", "stopped, it loses") : null,
    task.trials.some(({ status }) => status !== "ok") ? entry("bad", "failed") : null,
    entry("best", "best so far"),
    task.defaultTrial === null ? null : entry("default", "default"),
    task.roof ? entry("limit", "limit of the device") : null,
  );
}

function fastest(task: ReportTask): HTMLElement {
  const timed = task.trials.flatMap((trial, i) => (trial.ms === undefined ? [] : [{ ...trial, ms: trial.ms, i }]));
  if (timed.length === 0) return el("p", { class: "warning" }, "No variant was right and timed.");
  timed.sort((a, b) => a.ms - b.ms);
  const shown = timed.filter(({ i }, rank) => rank < FASTEST || i === task.defaultTrial || i === task.chosenTrial);
  return table(
    ["~Variant", "Time", "Interval", "Of the limit", "Trial", ""],
    shown.map((trial) => [
      variant(trial.variant, task),
      time(trial.ms),
      trial.low === undefined || trial.high === undefined ? "-" : `${time(trial.low)} to ${time(trial.high)}`,
      ofLimit(task, trial),
      String(trial.i + 1),
      [trial.i === task.defaultTrial ? "default" : "", trial.i === task.chosenTrial ? "chosen" : ""].filter(Boolean).join(", "),
    ]),
    "stacked",
  );
}

const STATUS = {
  ok: "not timed",
  wrong: "wrong result",
  compile: "did not compile",
  spills: "spills registers",
  crash: "crashed",
  hang: "hung",
  error: "could not be measured",
} as const satisfies Record<ReportTrial["status"], string>;

function failures(task: ReportTask): HTMLElement[] {
  const failed = task.trials.filter(({ ms }) => ms === undefined);
  if (failed.length === 0) return [];
  const groups = new Map<string, ReportTrial[]>();
  for (const trial of failed) {
    const key = JSON.stringify([trial.status, trial.reason]);
    groups.set(key, [...(groups.get(key) ?? []), trial]);
  }
  const rows = [...groups.values()].sort((a, b) => b.length - a.length);
  const rest = rows.slice(REASONS).reduce((sum, { length }) => sum + length, 0);
  return [
    el("h3", {}, `Variants that failed: ${failed.length} of ${task.trials.length}`),
    table(
      ["What", "How many", "~Why", "~Variants"],
      rows.slice(0, REASONS).map((trials) => {
        const [first] = trials as [ReportTrial];
        return [STATUS[first.status], String(trials.length), el("code", {}, first.reason ?? "no reason recorded"), examples(trials, task)];
      }),
      "stacked",
    ),
    ...(rest > 0 ? [el("p", { class: "soft" }, `and ${rest} more of other reasons`)] : []),
  ];
}

function examples(trials: readonly ReportTrial[], task: ReportTask): HTMLElement {
  const [first, ...others] = trials.map((trial) => variant(trial.variant, task));
  if (others.length === 0) return el("span", {}, first);
  return el("details", {}, el("summary", {}, first), ...others.map((text) => el("div", {}, text)));
}
