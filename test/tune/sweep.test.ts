/** Sweeps on replayed measurements: the same table however often they were killed, over however many shards; budgets, failures, drift. */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/tune/backend.js";
import { readJournal } from "../../src/tune/journal.js";
import { matching, shardOf } from "../../src/tune/model-tasks.js";
import { Random } from "../../src/tune/random.js";
import type { JournalRecord, Measured, TrialRecord } from "../../src/tune/records.js";
import { ReplayBackend } from "../../src/tune/replay.js";
import { tune } from "../../src/tune/run.js";
import { runSweep } from "../../src/tune/run-sweep.js";
import { DEFAULT_STRATEGY, STRATEGIES } from "../../src/tune/strategies/index.js";
import { mergeRows, printTable, rowsOfRecords } from "../../src/tune/tables.js";
import { type Task, taskSpace, variantKey } from "../../src/tune/task.js";
import { ROOT } from "../e2e/support.js";
import { ARCH, DEVICE, recordedTasks, recordedTrials, SWEEP, writeRecording } from "./recording.js";

const root = mkdtempSync(join(tmpdir(), "ernie-compile-sweep-test-"));
const RECORDING = join(root, "recording.jsonl");
let tasks: readonly Task[] = [];
let name = 0;
const file = (kind: string): string => join(root, `${name++}.${kind}`);

beforeAll(async () => {
  tasks = await recordedTasks();
  await writeRecording(RECORDING);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

interface Overrides {
  readonly tasks?: readonly Task[];
  readonly journal?: string;
  readonly table?: string;
  readonly trials?: number;
  readonly strategy?: (typeof STRATEGIES)[number];
  readonly seed?: number;
  readonly backend?: Backend;
  readonly device?: string;
  readonly build?: string;
  readonly resume?: boolean;
}

/** Gives the journal's and the table's paths. */
async function run(overrides: Overrides = {}): Promise<{ journal: string; table: string }> {
  const { journal = file("jsonl"), table = file("json"), backend = await ReplayBackend.open(RECORDING) } = overrides;
  const { machine, device, build } = SWEEP;
  await tune({
    tasks,
    arch: ARCH,
    device,
    machine,
    build,
    strategy: DEFAULT_STRATEGY,
    seed: 1,
    trials: 60,
    resume: false,
    ...overrides,
    journal,
    table,
    backend,
  });
  return { journal, table };
}

const trialsOf = (records: readonly JournalRecord[]): readonly string[] =>
  records.flatMap((record) => (record.kind === "trial" ? [`${record.task} | ${variantKey(record.variant)}`] : []));

describe("a sweep", () => {
  it("finds the fastest variant of a space that it measures whole, and no failed one", async () => {
    const { journal, table } = await run({ trials: 10_000 });
    const { records } = await readJournal(journal);
    const rows = rowsOfRecords(records);
    expect(rows).toHaveLength(tasks.length);
    expect(readFileSync(table, "utf8")).toBe(printTable({ device: DEVICE, rows }));
    for (const task of tasks) {
      const best = recordedTrials(task).reduce<TrialRecord | undefined>(
        (least, trial) =>
          trial.status === "ok" && (trial.seconds as number) < (least?.seconds ?? Number.POSITIVE_INFINITY) ? trial : least,
        undefined,
      ) as TrialRecord;
      const row = rows.find(
        ({ problem, rows: count, op }) => op === task.op && count === task.rows && JSON.stringify(problem) === JSON.stringify(task.problem),
      );
      const gain = (best.seconds as number) / (row?.default?.seconds as number);
      if (gain < 0.98) expect(row?.winner.params).toEqual(best.variant);
      else expect(row?.winner.seconds).toBeLessThanOrEqual(row?.default?.seconds as number);
    }
  });

  it.each(STRATEGIES.map((strategy) => [strategy.name, strategy] as const))(
    "asks no variant twice and keeps to its budget: %s",
    async (_, strategy) => {
      const large = matching(tasks, "moe_ffn");
      const { journal } = await run({ tasks: large, trials: 30, strategy });
      const trials = trialsOf((await readJournal(journal)).records);
      expect(new Set(trials).size).toBe(trials.length);
      expect(trials).toHaveLength(large.reduce((sum, task) => sum + Math.min(30, taskSpace(task, ARCH).size), 0));
    },
  );

  it("is the same for a seed, and another for another", async () => {
    const large = matching(tasks, "moe_ffn");
    const trials = async (seed: number) => trialsOf((await readJournal((await run({ tasks: large, trials: 20, seed })).journal)).records);
    const first = await trials(1);
    expect(await trials(1)).toEqual(first);
    expect(await trials(2)).not.toEqual(first);
  });

  it("over 8 shards, merged, finds what one process finds", async () => {
    const { table } = await run();
    const journals = await Promise.all(
      Array.from({ length: 8 }, async (_, i) => (await readJournal((await run({ tasks: shardOf(tasks, i + 1, 8) })).journal)).records),
    );
    expect(printTable({ device: DEVICE, rows: rowsOfRecords(journals.flat()) })).toBe(readFileSync(table, "utf8"));
    expect(mergeRows(rowsOfRecords(journals[0] ?? []), rowsOfRecords(journals.flat()))).toEqual(rowsOfRecords(journals.flat()));
  });

  it("adds to a table what it is about, and leaves the rest", async () => {
    const { table } = await run({ tasks: matching(tasks, "linear*") });
    const before = readFileSync(table, "utf8").split("\n");
    await run({ tasks: matching(tasks, "moe_*"), table });
    const after = readFileSync(table, "utf8").split("\n");
    const strip = (line: string): string => line.replace(/,$/, "");
    for (const line of before) expect(after.map(strip)).toContain(strip(line));
    expect(after.length - before.length).toBe(matching(tasks, "moe_*").length);
  });
});

describe("killed", () => {
  it("50 times at random moments and resumed, it reports each trial once, and the table is that of an undisturbed sweep", async () => {
    const undisturbed = await run();
    const [journal, table] = [file("jsonl"), file("json")];
    const keys = JSON.stringify(tasks.map(({ key }) => key));
    const random = new Random(Date.now());
    const reported: string[] = [];
    let kills = 0;
    let ended = false;
    while (!ended) {
      const delay = kills < 50 ? 4 : 0;
      const child = execa(process.execPath, [join(ROOT, "test/tune/replay-sweep.mjs"), RECORDING, journal, table, String(delay), keys], {
        reject: false,
      });
      // Some die before their first trial.
      const timer = kills < 50 ? setTimeout(() => child.kill("SIGKILL"), 180 + random.below(140)) : undefined;
      const { stdout, exitCode, stderr } = await child;
      clearTimeout(timer);
      // Half a line was not reported.
      reported.push(...stdout.split("\n").filter((line) => line.includes(" | ")));
      ended = exitCode === 0;
      if (!ended) kills++;
      if (!ended && exitCode !== undefined) throw new Error(stderr);
      const written = trialsOf((await readJournal(journal)).records);
      expect(new Set(written).size).toBe(written.length);
      for (const line of reported) expect(written).toContain(line);
    }
    expect(kills).toBeGreaterThanOrEqual(50);
    expect(new Set(reported).size).toBe(reported.length);
    expect(readFileSync(table, "utf8")).toBe(readFileSync(undisturbed.table, "utf8"));
    const [again, first] = await Promise.all(
      [journal, undisturbed.journal].map(async (path) => trialsOf((await readJournal(path)).records)),
    );
    expect([...(again ?? [])].sort()).toEqual([...(first ?? [])].sort());
  });
});

describe("a journal that cannot be gone on with", () => {
  it.each<[string, string, Overrides]>([
    ["journal-exists", "without --resume", { resume: false }],
    ["journal-device", "of another device", { resume: true, device: "x86-64-v3-other-2t" }],
    ["journal-version", "of other kernels", { resume: true, build: "fedcba9876543210" }],
    ["journal-settings", "with another seed", { resume: true, seed: 2 }],
  ])("is refused: %s, %s", async (code, _, overrides) => {
    const { journal } = await run({ tasks: tasks.slice(0, 1) });
    const before = readFileSync(journal, "utf8");
    await expect(run({ tasks: tasks.slice(0, 1), journal, ...overrides })).rejects.toMatchObject({ code, place: journal });
    expect(readFileSync(journal, "utf8")).toBe(before);
  });

  it("refuses a table of another device before anything is measured", async () => {
    const { table } = await run({ tasks: tasks.slice(0, 1) });
    const journal = file("jsonl");
    await expect(run({ tasks: tasks.slice(0, 1), journal, table, device: "x86-64-v3-other-2t" })).rejects.toMatchObject({
      code: "tuning-device",
    });
    expect((await readJournal(journal)).records).toEqual([]);
  });

  it("refuses to tune nothing", async () => {
    await expect(run({ tasks: [] })).rejects.toMatchObject({ code: "tune-no-tasks" });
  });
});

describe("what a sweep asks for", () => {
  const task = (): Task => matching(tasks, "moe_ffn").find(({ rows }) => rows === 64) as Task;

  async function records(trial: (variant: { readonly [name: string]: unknown }) => Measured, seconds?: number) {
    const found: JournalRecord[] = [];
    let now = 0;
    await runSweep({
      tasks: [task()],
      arch: ARCH,
      device: DEVICE,
      strategy: DEFAULT_STRATEGY,
      seed: 1,
      trials: 40,
      seconds,
      found: [],
      append: async (record) => {
        found.push(record);
      },
      clock: () => now,
      backend: {
        trial: async ({ variant }) => {
          now += 1;
          return trial(variant);
        },
        final: async ({ variants }) =>
          variants.map((variant, i) => ({ variant, seconds: 1, low: 1, high: 1, ratio: 1 + i, ratioLow: 1, ratioHigh: 1 + i })),
        close: async () => undefined,
      },
    });
    return found;
  }

  it("ends with its time", async () => {
    const found = await records(() => ({ status: "ok", seconds: 1 }), 12);
    const trials = trialsOf(found).length;
    expect(trials).toBeGreaterThanOrEqual(10);
    expect(trials).toBeLessThanOrEqual(16);
  });

  it("has no row where the default itself fails, and none but the default where nothing is faster", async () => {
    expect(rowsOfRecords(await records(() => ({ status: "wrong", reason: "of no use" })))).toEqual([]);
    const [row] = rowsOfRecords(await records((variant) => ({ status: "ok", seconds: variant.tile_rows === 4 ? 0.5 : 1 })));
    // In the final run, in turns, it was no faster after all.
    expect(row?.winner).toEqual(row?.default);
  });

  it("stops at a disk that is full", async () => {
    const failing = runSweep({
      tasks: [task()],
      arch: ARCH,
      device: DEVICE,
      strategy: DEFAULT_STRATEGY,
      seed: 1,
      trials: 40,
      found: [],
      append: () => Promise.reject(Object.assign(new Error("full"), { code: "disk-full" })),
      backend: await ReplayBackend.open(RECORDING),
    });
    await expect(failing).rejects.toMatchObject({ code: "disk-full" });
  });
});
