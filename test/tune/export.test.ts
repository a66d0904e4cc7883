import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { Ajv2020 } from "ajv/dist/2020.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { exportNames } from "../../src/tune/export.js";
import { exportKernelTuner } from "../../src/tune/export-kernel-tuner.js";
import { exportT4 } from "../../src/tune/export-t4.js";
import { parseLandscape, readLandscape } from "../../src/tune/landscape.js";
import type { TaskRecord, TrialRecord } from "../../src/tune/records.js";
import { isTimed, type SweptTask, sweepOf } from "../../src/tune/sweep.js";
import { inProcess } from "../cli/in-process.js";
import { HOSTILE, journalText, SESSION, sampleSweep, writeJournal } from "./sample-sweep.js";
import { T4_SCHEMA } from "./t4-schema.js";

const validate = new Ajv2020({ allowUnionTypes: true }).compile(T4_SCHEMA);
const sweep = sweepOf(sampleSweep());
const first = sweep.tasks[0] as SweptTask;

let folder = "";
let journal = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ernie-export-"));
  journal = join(folder, "tune.jsonl");
  writeJournal(journal);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const exported = (...flags: string[]) => inProcess("tune", "export", journal, "--format", "t4", ...flags);

describe("a task as T4", () => {
  test("is what the schema says, and our reader finds every trial in it again", () => {
    for (const task of sweep.tasks) {
      const file = exportT4(task, sweep.sessions);
      expect(validate(file), JSON.stringify(validate.errors?.slice(0, 2))).toBe(true);
      const { space, costs, optimum } = parseLandscape(JSON.stringify(file), "exported");
      expect(space.size).toBe(task.trials.length);
      for (const trial of task.trials) {
        const cost = costs[space.indexOf(trial.variant) as number] as number;
        if (isTimed(trial)) expect(cost).toBeCloseTo(1000 * trial.seconds, 9);
        else expect(cost).toBeNaN();
      }
      expect(optimum).toBeCloseTo(1000 * Math.min(...task.trials.filter(isTimed).map(({ seconds }) => seconds)), 9);
    }
  });

  test("says how each variant failed, and keeps no time of a wrong one", () => {
    const trial = (variant: number, fields: Partial<TrialRecord>): TrialRecord => ({
      ...{ kind: "trial", task: "t", variant: { tile: variant }, status: "ok", elapsed: variant },
      ...fields,
    });
    const trials = [
      trial(1, { seconds: 2e-3, runs: [2.1e-3, 1.9e-3], compileSeconds: 0.5, checkSeconds: 0.01, at: Date.UTC(2026, 0, 2) }),
      trial(2, { status: "wrong", seconds: 1e-3, runs: [1e-3] }),
      trial(3, { status: "compile", reason: "no" }),
      trial(4, { status: "hang" }),
      trial(5, { status: "crash" }),
      trial(6, { status: "error" }),
    ];
    const { results } = exportT4({ ...first, trials }, [SESSION]);
    expect(results.map(({ invalidity }) => invalidity)).toEqual(["correct", "correctness", "compile", "timeout", "runtime", "runtime"]);
    expect(results.map(({ measurements }) => measurements[0]?.value)).toEqual([
      2,
      "RuntimeFailedConfig",
      "CompilationFailedConfig",
      "RuntimeFailedConfig",
      "RuntimeFailedConfig",
      "RuntimeFailedConfig",
    ]);
    expect(results[0]).toEqual({
      timestamp: "2026-01-02 00:00:00.000+00:00",
      configuration: { tile: 1 },
      times: { compilation: 500, framework: 0, search_algorithm: 0, validation: 10, runtimes: [2.1, 1.9] },
      invalidity: "correct",
      correctness: 1,
      measurements: [{ name: "time", value: 2, unit: "ms" }],
      objectives: ["time"],
    });
    expect(results[1]?.times.runtimes).toEqual([]);
    // The start of the sweep and the seconds since.
    expect(results[1]?.timestamp).toBe("2026-11-24 10:00:02.000+00:00");
  });

  test("holds a variant once, as it was measured last", () => {
    const [trial] = first.trials as [TrialRecord];
    const { results } = exportT4({ ...first, trials: [trial, { ...trial, seconds: 1 }] }, [SESSION]);
    expect(results.map(({ measurements }) => measurements[0]?.value)).toEqual([1000]);
  });

  test("gets a plain file name of its own, whatever its key", () => {
    const named = (key: string): SweptTask => ({ ...first, task: { ...first.task, task: key } as TaskRecord });
    const names = [...exportNames({ sessions: [], tasks: ["../../etc/x", "...", "a b", "a\u0000b", HOSTILE].map(named) }, "t4").keys()];
    expect(names).toHaveLength(5);
    for (const name of names) expect(name).toMatch(/^[A-Za-z0-9_-]+_T4\.json$/);
  });
});

describe("a task as a cache of Kernel Tuner", () => {
  test("has what its dashboard reads of every trial", () => {
    const { cache, tune_params_keys, tune_params, ...head } = exportKernelTuner(first, sweep.sessions);
    expect(head).toMatchObject({
      schema_version: "1.0.0",
      device_name: "A CPU of some vendor",
      objective: "time",
      problem_size: [1024, 1024, 1],
    });
    expect(tune_params_keys).toEqual(Object.keys(tune_params));
    expect(Object.keys(cache)).toHaveLength(90);
    for (const trial of first.trials) {
      const entry = cache[tune_params_keys.map((name) => trial.variant[name]).join(",")];
      expect(entry).toMatchObject({ ...trial.variant, compile_time: isTimed(trial) ? 800 : 0, benchmark_time: 0 });
      if (isTimed(trial)) expect(entry?.time).toBeCloseTo(1000 * trial.seconds, 9);
      else expect(entry?.time).toMatch(/^(Compilation|Runtime)FailedConfig$/);
    }
  });

  test("ends as a file that the dashboard takes for whole", async () => {
    const out = join(folder, "cache.json");
    expect((await inProcess("tune", "export", journal, "--format", "kernel-tuner", "--task", "n=103424", "-o", out)).exitCode).toBe(0);
    const text = readFileSync(out, "utf8");
    expect(text.slice(-3)).toBe("}\n}");
  });
});

describe("tune export", () => {
  test("writes a file a task, which tune simulate runs a strategy on", async () => {
    const out = join(folder, "t4");
    expect((await exported("-o", out)).exitCode).toBe(0);
    const files = readdirSync(out);
    expect(files).toHaveLength(4);
    const { exitCode, stdout } = await inProcess("tune", "simulate", join(out, files[0] as string), "--seeds", "2", "--json");
    expect(exitCode).toBe(0);
    // There are fewer than 100 variants, so in the end the best is found.
    expect(JSON.parse(stdout).seeds.map(({ best }: { best: { 400: number } }) => best[400])).toEqual([1, 1]);
  });

  test("prints one task, or writes it to a file, packed where the name says so", async () => {
    const { stdout } = await exported("--task", "n=103424");
    expect(validate(JSON.parse(stdout))).toBe(true);
    const packed = join(folder, "one.json.gz");
    expect((await exported("--task", "n=103424", "-o", packed)).exitCode).toBe(0);
    expect(JSON.parse(gunzipSync(readFileSync(packed)).toString())).toEqual(JSON.parse(stdout));
    expect((await readLandscape(packed)).space.size).toBe(90);
  });

  test("leaves out a line that was cut, and says so", async () => {
    const cut = join(folder, "cut.jsonl");
    writeFileSync(cut, journalText(sampleSweep(5)).slice(0, -200));
    const { exitCode, stderr } = await inProcess("tune", "export", cut, "-o", join(folder, "cut"));
    expect(exitCode).toBe(0);
    expect(stderr).toMatch(/cut/);
  });

  test.each([
    ["several tasks without a folder", [], 2, /found 4 tasks, expected one/],
    ["several tasks into a file", ["-o", "x.json"], 2, /found 4 tasks, expected one/],
    ["a task that is none", ["--task", "no such"], 2, /found no task with "no such" in its key/],
    ["a format that is none", ["--format", "csv"], 2, /expected one of t4, kernel-tuner/],
    ["a folder that cannot be made", ["-o", "/proc/t4"], 1, /\/proc\/t4/],
  ])("refuses %s", async (_, flags, code, message) => {
    const { exitCode, stderr } = await exported(...flags);
    expect(stderr).toMatch(message);
    expect(exitCode).toBe(code);
  });

  test("refuses a journal without trials, and one that is not there", async () => {
    const empty = join(folder, "empty.jsonl");
    writeJournal(empty, [SESSION]);
    expect((await inProcess("tune", "export", empty)).stderr).toMatch(/tune-no-trials: found no trial/);
    expect((await inProcess("tune", "export", join(folder, "none"))).stderr).toMatch(/file-missing/);
  });
});
