/** The top of the page: where this was measured, what it brought, and one row a task. */

import { change, duration, gain, ofLimit, time } from "../format.js";
import type { ReportData, ReportTask } from "../report-data.js";
import { el, table } from "./dom.js";

export function summary(data: ReportData, taskId: (task: ReportTask) => string): HTMLElement {
  const { tasks, facts, warnings } = data;
  return el(
    "header",
    {},
    el("h1", {}, "Sweep on ", data.device),
    el("dl", { class: "facts" }, ...facts.map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, text)))),
    ...warnings.map((text) => el("p", { class: "warning", role: "note" }, text)),
    el(
      "div",
      { class: "cards" },
      card(data.gain === null ? "-" : `${data.gain.toFixed(2)}×`, "geometric mean gain over the defaults"),
      card(String(tasks.length), tasks.length === 1 ? "task" : "tasks"),
      card(String(data.trials), "trials"),
      card(String(data.failed), "failed or wrong"),
      card(duration(data.seconds), "of measuring"),
    ),
    programs(data),
    el("h2", {}, "What it brought"),
    table(
      ["~Task", "Trials", "Default", "Chosen", "Gain", "Of the limit", "~Change"],
      tasks.map((task) => row(task, taskId(task))),
      "stacked",
    ),
    tasks.some((task) => task.gain && !task.gain.again)
      ? el("p", { class: "soft" }, "* of single trials, not timed again side by side")
      : null,
  );
}

function row(task: ReportTask, id: string): (HTMLElement | string)[] {
  const at = (index: number | null) => (index === null ? undefined : task.trials[index]);
  const [own, chosen] = [at(task.defaultTrial), at(task.chosenTrial)];
  const ms = (trial: { readonly ms?: number } | undefined) => (trial?.ms === undefined ? "-" : time(trial.ms));
  return [
    el("a", { href: `#${id}` }, task.title),
    `${task.trials.length} of ${task.size}`,
    ms(own),
    ms(chosen),
    el("strong", { class: task.gain && task.gain.low > 1 ? "up" : "" }, task.gain ? gain(task.gain) : "-"),
    ofLimit(task, chosen),
    change(task),
  ];
}

function card(figure: string, what: string): HTMLElement {
  return el("div", { class: "card" }, el("b", {}, figure), el("span", {}, what));
}

function programs({ programs }: ReportData): HTMLElement | null {
  if (programs.length === 0) return null;
  return el(
    "section",
    {},
    el("h2", {}, "A step of the model"),
    el("p", { class: "soft" }, "Only the kernels that were swept, each as often as a step launches it."),
    table(
      ["Program", "With the defaults", "With what was chosen", "Gain"],
      programs.map(({ name, defaultMs, chosenMs }) => [
        name,
        time(defaultMs),
        time(chosenMs),
        el("strong", {}, `${(defaultMs / chosenMs).toFixed(3)}×`),
      ]),
      "stacked",
    ),
  );
}
