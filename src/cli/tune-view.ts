/** What a sweep shows while it runs: on a terminal one line a task that moves, elsewhere one line a finished task. And its results as text and JSON. */

import type { TuningRow, TuningTable } from "../kernels/tuning.js";
import type { TaskRecord } from "../tune/records.js";
import type { SweepEvent } from "../tune/run-sweep.js";
import { paramsOf, type Task, variantKey } from "../tune/task.js";
import { note } from "./terminal.js";

export class SweepView {
  readonly #moving: boolean;
  readonly #limits = new Map<string, number>();
  #failed = 0;
  #drifted = 0;
  #open = false;

  constructor(
    private readonly tasks: number,
    private readonly silent: boolean,
  ) {
    const { isTTY, columns } = process.stderr;
    this.#moving = Boolean(isTTY) && columns > 0 && process.env.TERM !== "dumb";
  }

  show(event: SweepEvent): void {
    const { record, task } = event;
    if (record.kind === "task") this.#limits.set(task.key, limitSeconds(record));
    if (record.kind === "trial" && record.status !== "ok") this.#failed++;
    if (record.kind === "trial" && record.drift !== undefined) this.#drifted++;
    if (this.silent) return;
    if (event.kind === "final") this.#line(this.#text(event), true);
    else if (this.#moving) this.#line(this.#text(event), false);
  }

  end(): void {
    if (this.#open) process.stderr.write("\n");
    this.#open = false;
    if (this.#drifted > 0 && !this.silent)
      note(`${this.#drifted} times the clock had drifted: the incumbent took longer or shorter than before; all times are ratios to it`);
    if (this.#failed > 0 && !this.silent) note(`${this.#failed} variants failed; the journal says why`);
  }

  #text({ task, number, trials, budget, best, standard, secondsLeft }: SweepEvent): string {
    const parts = [`[${number + 1}/${this.tasks}] ${taskName(task)}`, `${trials}/${budget}`];
    if (best) {
      parts.push(formatSeconds(best.seconds));
      if (standard !== undefined) parts.push(`${(standard / best.seconds).toFixed(3)} x default`);
      const limit = this.#limits.get(task.key);
      if (limit) parts.push(`${Math.round((100 * limit) / best.seconds)} % of limit`);
    }
    if (this.#moving && secondsLeft !== undefined) parts.push(`${Math.ceil(secondsLeft)} s left`);
    return parts.join("  ");
  }

  #line(text: string, done: boolean): void {
    if (this.#moving) {
      process.stderr.write(`\r\u001b[K${text.slice(0, process.stderr.columns - 1)}${done ? "\n" : ""}`);
      this.#open = !done;
    } else note(text);
  }
}

/** The least time that memory and arithmetic allow, or 0 where it is not known. */
function limitSeconds({ cost, limits }: TaskRecord): number {
  return limits ? Math.max(cost.bytes / limits.bytesPerSecond, cost.operations / limits.operationsPerSecond) : 0;
}

export function taskName(task: Task): string {
  return `${task.kernel.file(paramsOf(task, {}))} x${task.rows}`;
}

export function formatSeconds(seconds: number): string {
  return seconds < 1e-3 ? `${(seconds * 1e6).toFixed(1)} us` : `${(seconds * 1e3).toFixed(3)} ms`;
}

/** Rows whose winner is not the default, and the mean gain. */
export function resultLines({ rows }: TuningTable): readonly string[] {
  const gains = rows.map(gainOf);
  const mean = Math.exp(gains.reduce((sum, gain) => sum + Math.log(gain), 0) / Math.max(1, gains.length));
  return [
    ...rows.flatMap((row, i) => rowLine(row, gains[i] as number)),
    `${rows.length} tasks, ${mean.toFixed(3)} times as fast as the defaults (geometric mean)`,
  ];
}

function rowLine(row: TuningRow, gain: number): readonly string[] {
  if (gain === 1) return [];
  const changed = Object.entries(row.winner.params).filter(([name, value]) => row.default?.params[name] !== value);
  const sizes = Object.entries(row.problem).filter(([, value]) => typeof value === "number");
  return [
    `${row.winner.kernel} ${sizes.map(([name, value]) => `${name}=${value}`).join(" ")} rows=${row.rows}: ${gain.toFixed(3)} x with ${variantKey(Object.fromEntries(changed))}`,
  ];
}

export function gainOf({ winner, default: standard }: TuningRow): number {
  return standard ? standard.seconds / winner.seconds : 1;
}

export function tableJson(table: TuningTable): object {
  return { device: table.device, rows: table.rows.map((row) => ({ ...row, gain: gainOf(row) })) };
}
