/** The report page: reads the data that stands in it and draws. Runs in a browser, from a file, with nothing to fetch. */

import type { ReportData, ReportTask } from "../report-data.js";
import type { Across } from "./charts.js";
import { el } from "./dom.js";
import { summary } from "./summary.js";
import { taskView } from "./task.js";

/** Tasks that are open at first. */
const OPEN = 3;

const data = JSON.parse(document.getElementById("data")?.textContent ?? "") as ReportData;
const idOf = (task: ReportTask) => `task-${data.tasks.indexOf(task) + 1}`;
const views = data.tasks.map((task, i) => taskView(task, data.tasks, idOf(task), i < OPEN));
let across: Across = "trial";

function choice(value: Across, text: string): HTMLElement {
  const input = el("input", { type: "radio", name: "across", value });
  input.checked = value === across;
  input.addEventListener("change", () => {
    across = value;
    for (const view of views) if (near.has(view.element)) view.draw(across);
  });
  return el("label", {}, input, text);
}

document.title = `Sweep on ${data.device}`;
document.body.append(
  el(
    "main",
    {},
    summary(data, idOf),
    el(
      "div",
      { class: "bar" },
      el("h2", {}, "Tasks"),
      el("fieldset", {}, el("legend", {}, "Trials over"), choice("trial", "their number"), choice("seconds", "time")),
    ),
    ...views.map(({ element }) => element),
  ),
);

// Hundreds of tasks with hundreds of trials each would take a browser long to draw at once: only what is near the screen is.
const near = new Set<Element>();
const drawOf = new Map<Element, () => void>(views.map(({ element, draw }) => [element, () => draw(across)]));
const seen = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) near.delete(target);
      else if (!near.has(target)) {
        near.add(target);
        drawOf.get(target)?.();
      }
    }
  },
  { rootMargin: "800px" },
);
const widths = new Map<Element, number>();
const resized = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    // Charts change the height: only another width is a reason to draw again.
    if (widths.get(target) === contentRect.width) continue;
    widths.set(target, contentRect.width);
    if (near.has(target)) drawOf.get(target)?.();
  }
});
for (const { element } of views) {
  seen.observe(element);
  resized.observe(element);
  element.addEventListener("toggle", () => drawOf.get(element)?.());
}
// A link to a task opens it; on paper everything is open.
addEventListener("hashchange", openTarget);
addEventListener("beforeprint", () => {
  for (const { element } of views) (element as HTMLDetailsElement).open = true;
  for (const draw of drawOf.values()) draw();
});
openTarget();

function openTarget(): void {
  const target = views.find(({ element }) => `#${element.id}` === location.hash)?.element;
  if (!(target instanceof HTMLDetailsElement)) return;
  target.open = true;
  target.scrollIntoView();
}
