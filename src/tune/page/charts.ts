/** The three charts of a task, drawn with Observable Plot as SVG. Colours are the page's CSS variables, so that light and dark need no redrawing. */

import { dot, line, plot, pointer, ruleY, text, tickY, tip } from "@observablehq/plot";
import { digits, short, time, value, variant } from "../format.js";
import type { ReportTask, ReportTrial } from "../report-data.js";

export type Chart = SVGSVGElement | HTMLElement;
/** What the trials chart has below: how many, or when. */
export type Across = "trial" | "seconds";

interface Point {
  readonly i: number;
  readonly x: number;
  readonly ms: number;
  readonly best: number;
  readonly trial: ReportTrial;
}

const STYLE = { background: "transparent", color: "var(--soft)", fontSize: "12px", fontFamily: "inherit", overflow: "visible" };
const MARGINS = { marginLeft: 56, marginRight: 16, marginTop: 26, marginBottom: 38 };

/** Every timed trial, what failed along the upper edge, and the best so far. */
export function trialsChart(task: ReportTask, across: Across, width: number): Chart {
  const at = (trial: ReportTrial, i: number) => (across === "trial" ? i + 1 : trial.at);
  const points: Point[] = [];
  const failures: Omit<Point, "ms" | "best">[] = [];
  let best = Number.POSITIVE_INFINITY;
  task.trials.forEach((trial, i) => {
    const x = at(trial, i);
    if (trial.ms === undefined) return failures.push({ i, x, trial });
    if (!trial.stopped) best = Math.min(best, trial.ms);
    return points.push({ i, x, ms: trial.ms, best, trial });
  });
  const own = task.defaultTrial === null ? undefined : task.trials[task.defaultTrial]?.ms;
  const title = ({ i, trial }: { i: number; trial: ReportTrial }) =>
    `trial ${i + 1}, after ${digits(trial.at)} s\n${trial.ms === undefined ? trial.status : time(trial.ms)}${trial.stopped ? ", stopped: it loses" : ""}\n${wrapped(variant(trial.variant, task))}`;
  return plot({
    width,
    height: 280,
    ...MARGINS,
    style: STYLE,
    ariaLabel: `Time of each of ${task.trials.length} trials, with the best so far`,
    x: {
      label: across === "trial" ? "trial" : "seconds of the sweep",
      // No half trials.
      ticks: Math.min(8, task.trials.length),
      domain: [0, Math.max(1, ...task.trials.map(at))],
      nice: true,
      labelAnchor: "right",
    },
    y: { label: "time", type: "log", domain: domainOf(task), tickFormat: timeTick, ticks: 5, grid: true },
    marks: [
      ...(own === undefined ? [] : [ruleY([own], { stroke: "var(--default)", strokeWidth: 1.5 })]),
      ...(task.roof ? [ruleY([task.roof.ms], { stroke: "var(--soft)", strokeDasharray: "4 3" })] : []),
      dot(points, {
        x: "x",
        y: "ms",
        r: 3,
        fill: (d: Point) => (d.trial.stopped ? "none" : "var(--ok)"),
        stroke: "var(--ok)",
        strokeWidth: 1,
      }),
      line(
        points.filter(({ best }) => Number.isFinite(best)),
        { x: "x", y: "best", stroke: "var(--best)", strokeWidth: 2, curve: "step-after" },
      ),
      dot(failures, { x: "x", frameAnchor: "top", dy: -8, symbol: "times", r: 3.5, stroke: "var(--bad)", strokeWidth: 1.5 }),
      tip(points, pointer({ x: "x", y: "ms", title, ...TIP })),
      tip(failures, pointer({ x: "x", frameAnchor: "top", title, ...TIP })),
    ],
  });
}

const TIP = { fill: "var(--card)", stroke: "var(--line)", textPadding: 8, fontSize: 12, maxRadius: 30 } as const;

/** For each value of a tunable the times of the variants that have it, and their median: what the tunable alone moves. */
export function tunableChart(task: ReportTask, name: string, width: number): Chart {
  const timed = task.trials.flatMap((trial) =>
    trial.ms === undefined ? [] : [{ value: value(trial.variant[name]), ms: trial.ms, trial }],
  );
  const values = (task.parameters.find((parameter) => parameter.name === name)?.values ?? []).map(value);
  const medians = values.flatMap((entry) => {
    const sorted = timed
      .filter((point) => point.value === entry)
      .map(({ ms }) => ms)
      .sort((a, b) => a - b);
    const middle = sorted[sorted.length >> 1];
    return middle === undefined ? [] : [{ value: entry, ms: middle }];
  });
  return plot({
    width,
    height: 170,
    ...MARGINS,
    marginTop: 12,
    marginRight: 8,
    marginBottom: 28,
    style: STYLE,
    ariaLabel: `Times by value of ${name}`,
    x: { type: "band", domain: values, label: null, tickFormat: short, padding: 0.35 },
    y: { label: null, type: "log", domain: domainOf(task), tickFormat: timeTick, ticks: 4, grid: true },
    marks: [
      dot(timed, { x: "value", y: "ms", r: 2.5, fill: "var(--ok)", fillOpacity: 0.45 }),
      tickY(medians, { x: "value", y: "ms", stroke: "var(--text)", strokeWidth: 2 }),
      tip(
        timed,
        pointer({
          x: "value",
          y: "ms",
          title: ({ ms, trial }: { ms: number; trial: ReportTrial }) => `${time(ms)}\n${wrapped(variant(trial.variant, task))}`,
          ...TIP,
        }),
      ),
    ],
  });
}

/** Operations a second over operations a byte: the roof, this task's trials below it, and the chosen variants of the others. */
export function roofChart(task: ReportTask, all: readonly ReportTask[], width: number): Chart | undefined {
  const { roof } = task;
  if (!roof) return undefined;
  const others = all.flatMap((other) => {
    const point = other === task ? undefined : roofPoint(other, other.chosenTrial);
    return point ? [point] : [];
  });
  const own = task.trials.flatMap((_, i) => roofPoint(task, i) ?? []);
  const same = task.defaultTrial === task.chosenTrial;
  const marked = [
    { point: same ? undefined : roofPoint(task, task.defaultTrial), colour: "var(--default)", name: "default" },
    { point: roofPoint(task, task.chosenTrial), colour: "var(--best)", name: same ? "default, chosen" : "chosen" },
  ].flatMap(({ point, colour, name }) => (point ? [{ ...point, colour, name }] : []));
  const ridge = roof.operationsPerSecond / roof.bytesPerSecond;
  const xs = [...others, ...own].map(({ intensity }) => intensity).concat(ridge);
  const [from, to] = [Math.min(...xs) / 3, Math.max(...xs) * 3];
  const roofLine = [from, ridge, to].map((intensity) => ({
    intensity,
    giga: Math.min(intensity * roof.bytesPerSecond, roof.operationsPerSecond) / 1e9,
  }));
  const lowest = Math.min(...[...others, ...own, ...roofLine].map(({ giga }) => giga));
  return plot({
    width,
    height: 280,
    ...MARGINS,
    style: STYLE,
    ariaLabel: "Roofline: operations a second over operations a byte",
    x: { type: "log", domain: [from, to], label: "operations a byte", ticks: 4, tickFormat: plainTick, labelAnchor: "right" },
    y: {
      type: "log",
      domain: [lowest / 1.5, (roof.operationsPerSecond / 1e9) * 1.5],
      label: "Gop/s",
      ticks: 5,
      tickFormat: plainTick,
      grid: true,
    },
    marks: [
      line(roofLine, { x: "intensity", y: "giga", stroke: "var(--soft)", strokeWidth: 2 }),
      dot(others, { x: "intensity", y: "giga", r: 3, fill: "var(--soft)", fillOpacity: 0.5, title: "title" }),
      dot(own, { x: "intensity", y: "giga", r: 2, fill: "var(--ok)", fillOpacity: 0.4 }),
      dot(marked, { x: "intensity", y: "giga", r: 5, fill: "colour", stroke: "var(--card)" }),
      text(marked, {
        x: "intensity",
        y: "giga",
        text: "name",
        dx: 9,
        textAnchor: "start",
        fill: "var(--text)",
        stroke: "var(--card)",
        strokeWidth: 4,
      }),
      tip(others, pointer({ x: "intensity", y: "giga", title: "title", ...TIP })),
    ],
  });
}

function roofPoint({ trials, roof, title }: ReportTask, at: number | null): { intensity: number; giga: number; title: string } | undefined {
  const ms = at === null ? undefined : trials[at]?.ms;
  if (!roof || ms === undefined) return undefined;
  return { intensity: roof.operations / roof.bytes, giga: roof.operations / ms / 1e6, title: wrapped(title) };
}

/** One range of times for all charts of a task, so that they can be compared. */
function domainOf({ trials, roof }: ReportTask): [number, number] {
  const times = trials.flatMap(({ ms }) => (ms === undefined ? [] : [ms])).concat(roof ? [roof.ms] : []);
  return times.length === 0 ? [1, 10] : [Math.min(...times) / 1.05, Math.max(...times) * 1.05];
}

const timeTick = (ms: number): string => time(ms).replace(/\.0+ /, " ");
const plainTick = (count: number): string => (count >= 1 ? count.toLocaleString("en") : String(Number(count.toPrecision(2))));

/** Lines of some 44 characters: a tip does not wrap by itself. */
function wrapped(words: string): string {
  const lines: string[] = [];
  for (const word of words.split(" ")) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + word.length < 44) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word.length > 44 ? `${word.slice(0, 43)}…` : word);
  }
  return lines.join("\n");
}
