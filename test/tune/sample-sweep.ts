/** A sweep that was never run: records as a journal holds them, with failures of every kind and with strings that try to be more than text. */

import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { Random } from "../../src/tune/random.js";
import type { FinalRecord, JournalRecord, SweepRecord, TaskRecord, TrialRecord, TrialStatus } from "../../src/tune/records.js";
import { parameter, Space } from "../../src/tune/space.js";

/** In reasons, in a parameter's value and in a task's key. */
export const HOSTILE = `</script><img src=x onerror="document.title='owned'">&amp;<b>bold</b>\u2028`;

const PARAMETERS = [
  parameter("tile_rows", [1, 2, 4, 6, 8, 12]),
  parameter("panels", [1, 2, 3, 4]),
  parameter("unroll", [1, 2, 4, 8]),
  parameter("prefetch", [0, 2, 4, 8, 16]),
  parameter("order", ["rows", "panels", HOSTILE]),
];
const BYTES_PER_SECOND = 60e9;
const OPERATIONS_PER_SECOND = 400e9;

const STARTED = "2026-11-24T10:00:00.000Z";
export const SESSION: SweepRecord = {
  kind: "sweep",
  format: 1,
  version: "0.1.0",
  build: "c0ffee",
  device: "cpu x86-64-v4-bf16",
  machine: { cpu: "A CPU of some vendor", threads: 2, arch: "x86-64-v4-bf16", cacheBytes: 32 * 2 ** 20 },
  seed: 7,
  strategy: "model",
  started: STARTED,
};

interface Problem {
  readonly op: string;
  readonly n: number;
  readonly k: number;
  readonly rows: number;
}

const PROBLEMS: readonly Problem[] = [
  { op: "linear", n: 1024, k: 1024, rows: 1 },
  { op: "linear", n: 103424, k: 1024, rows: 1 },
  { op: "linear_swiglu", n: 6144, k: 1024, rows: 512 },
  { op: "linear", n: 1024, k: 3072, rows: 512 },
];

function taskOf({ op, n, k, rows }: Problem, space: Space): TaskRecord {
  return {
    kind: "task",
    task: `${op} n=${n} k=${k} x=bf16 rows=${rows} cpu x86-64-v4-bf16`,
    op,
    kernel: op,
    problem: { n, k, x: "bf16" },
    layouts: { weight: "panel64" },
    rows,
    device: "cpu x86-64-v4-bf16",
    space: { parameters: PARAMETERS.map(({ name, values }) => ({ name, values })), size: space.size },
    default: { tile_rows: 6, panels: 1, unroll: 2, prefetch: 4, order: "rows" },
    cost: { bytes: 2 * n * k + 6 * rows * (n + k), operations: 2 * n * k * rows },
    limits: { bytesPerSecond: BYTES_PER_SECOND, operationsPerSecond: OPERATIONS_PER_SECOND },
    launches: rows === 1 ? { decode: 18 } : { prefill: 18 },
  };
}

function secondsOf(space: Space, index: number, problem: Problem, roofSeconds: number): number {
  const { tile_rows, panels, unroll, prefetch, order } = space.configuration(index) as { [name: string]: number | string };
  const bad =
    0.3 * Math.abs(Math.log2((tile_rows as number) * (panels as number)) - (problem.rows === 1 ? 1 : 3.5)) +
    0.1 * Math.abs(Math.log2(unroll as number) - 2) +
    0.02 * Math.abs((prefetch as number) - 8) +
    (order === "panels" ? 0 : 0.08);
  return roofSeconds * (1.15 + bad);
}

/** Records of a sweep of four tasks with `trials` trials each. */
export function sampleSweep(trials = 90): JournalRecord[] {
  const random = new Random(42);
  const records: JournalRecord[] = [SESSION];
  const space = Space.enumerate(PARAMETERS, ({ tile_rows, panels }) => (tile_rows as number) * (panels as number) <= 24);
  let elapsed = 0;
  for (const problem of PROBLEMS) {
    const task = taskOf(problem, space);
    records.push(task);
    const roof = Math.max(task.cost.bytes / BYTES_PER_SECOND, task.cost.operations / OPERATIONS_PER_SECOND);
    const first = space.indexOf(task.default) as number;
    const order = random.shuffle(Array.from({ length: space.size }, (_, i) => i)).filter((i) => i !== first);
    let fastest = Number.POSITIVE_INFINITY;
    const timed = [first, ...order].slice(0, trials).map((index, i): TrialRecord => {
      elapsed += 0.4 + random.uniform();
      const variant = space.configuration(index);
      const failed: TrialStatus | undefined =
        i > 0 && random.chance(0.1) ? random.pick(["wrong", "compile", "crash", "hang"] as const) : undefined;
      if (failed)
        return {
          kind: "trial",
          task: task.task,
          variant: { ...variant },
          status: failed,
          reason: reasonOf(failed),
          elapsed,
          at: Date.parse(STARTED) + 1000 * elapsed,
        };
      const seconds = secondsOf(space, index, problem, roof) * Math.exp(0.02 * random.normal());
      const interval = { seconds, low: seconds * 0.99, high: seconds * 1.015, samples: 24 };
      // No trial that is stopped for losing is the fastest so far.
      const stopped = seconds > fastest && random.chance(0.3) ? "loses" : "settled";
      fastest = Math.min(fastest, seconds);
      return {
        kind: "trial",
        task: task.task,
        variant: { ...variant },
        status: "ok",
        ...interval,
        stopped,
        compileSeconds: 0.8,
        elapsed,
        at: Date.parse(STARTED) + 1000 * elapsed,
      };
    });
    records.push(...timed, ...(trials > 0 ? [finalOf(task, timed, elapsed)] : []));
  }
  return records;
}

function reasonOf(status: TrialStatus): string {
  if (status === "wrong") return "NMSE 0.31 against the reference, expected at most 1e-5";
  if (status === "compile") return `error: static assertion failed: ${HOSTILE}`;
  return status === "crash" ? "SIGSEGV" : "no result after 10 s";
}

function finalOf({ task }: TaskRecord, trials: readonly TrialRecord[], elapsed: number): FinalRecord {
  const own = trials[0]?.seconds as number;
  const best = trials.filter(({ seconds }) => seconds !== undefined).sort((a, b) => (a.seconds as number) - (b.seconds as number));
  const variants = [...best.slice(0, 2), trials[0] as TrialRecord].map(({ variant, seconds = 0 }) => {
    const ratio = seconds / own;
    return { variant, seconds, low: 0.99 * seconds, high: 1.01 * seconds, ratio, ratioLow: 0.985 * ratio, ratioHigh: 1.015 * ratio };
  });
  return { kind: "final", task, variants, elapsed };
}

/** The journal's text. */
export function journalText(records: readonly JournalRecord[]): string {
  let previous = "";
  return records
    .map((record) => {
      const text = JSON.stringify(record);
      previous = createHash("sha256")
        .update(previous + text)
        .digest("hex")
        .slice(0, 16);
      return `{"sum":"${previous}","record":${text}}\n`;
    })
    .join("");
}

export function writeJournal(path: string, records: readonly JournalRecord[] = sampleSweep()): void {
  writeFileSync(path, journalText(records));
}
