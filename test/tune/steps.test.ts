/** Choices above kernels: what there is to choose, what a build makes of a row, and how packages are measured; with processes that are made up, and once with real ones. */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { compile } from "../../src/compile.js";
import { Diagnostic } from "../../src/diagnostics.js";
import { parseConfig } from "../../src/frontend/config.js";
import { type RequestFlags, resolveRequest } from "../../src/frontend/model-json.js";
import { PRESET_NAMES, presetConfig } from "../../src/frontend/presets.js";
import { isStepProblem, stepConfig, stepProblem } from "../../src/frontend/step-problem.js";
import { declareWeights } from "../../src/frontend/weight-set.js";
import { PERSISTENT_DECODE, persistentParams } from "../../src/kernels/cuda/persistent.js";
import type { KernelParams } from "../../src/kernels/kernel-def.js";
import { STEPS } from "../../src/kernels/steps.js";
import type { TuningRow } from "../../src/kernels/tuning.js";
import { type LowerInput, lowerModel } from "../../src/lower.js";
import { type ArchLevel, bestArch, type CpuArch, readCpuFlags } from "../../src/toolchain/arch.js";
import { Cache } from "../../src/toolchain/cache.js";
import { HarnessEnd } from "../../src/tune/harness.js";
import { JoinedBackend } from "../../src/tune/joined.js";
import { readJournal } from "../../src/tune/journal.js";
import { layersThatFit, localSteps } from "../../src/tune/local-steps.js";
import { matching, stepTasks } from "../../src/tune/model-tasks.js";
import { parseJob } from "../../src/tune/queue-jobs.js";
import type { Machine } from "../../src/tune/records.js";
import { tune } from "../../src/tune/run.js";
import { STEP_TRIAL_RULE } from "../../src/tune/stats.js";
import { type Answers, answersDiffer } from "../../src/tune/step-answers.js";
import { StepBackend, type StepPlatform, type StepProcess } from "../../src/tune/step-backend.js";
import { DEFAULT_STRATEGY } from "../../src/tune/strategies/index.js";
import { rowsOfRecords } from "../../src/tune/tables.js";
import { defaultVariant, indexOf, parseTask, parseVariant, type Task, taskSpace, variantKey } from "../../src/tune/task.js";
import { Turns } from "../../src/tune/turns.js";
import { MODELS } from "../e2e/support.js";

const root = mkdtempSync(join(tmpdir(), "ernie-compile-steps-test-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const SIZES = { batches: [1, 2, 4, 8, 16, 64], tokens: [2048] };

async function tasksOf(model: string, arch: ArchLevel, { cores = 8, sizes = SIZES, deterministic = false } = {}): Promise<readonly Task[]> {
  const request = await resolveRequest(model, { target: arch.startsWith("sm_") ? "cuda" : "cpu", dryRun: true });
  return stepTasks({ ...request, deterministic }, sizes, arch, cores);
}

const lines = (tasks: readonly Task[]): readonly string[] => tasks.map(({ kernel, op, rows }) => `${op}/${kernel.name} ${rows}`);

describe("the choices about a model's steps", () => {
  it("are those that there are on a device", async () => {
    expect(lines(await tasksOf("ernie-4.5-0.3b", "sm_90a"))).toEqual([
      ...[1, 2, 4, 8].map((rows) => `step_decode/launches ${rows}`),
      "step_prefill/gpu_chunks 8192",
    ]);
    // No launch does a whole step with experts, nor on an older GPU.
    expect(lines(await tasksOf("ernie-4.5-21b-a3b", "sm_90a"))).toEqual(["step_prefill/gpu_chunks 8192"]);
    expect(lines(await tasksOf("ernie-4.5-0.3b", "sm_80"))).toEqual(["step_prefill/gpu_chunks 8192"]);
    // It sums in an order of its own.
    expect(lines(await tasksOf("ernie-4.5-0.3b", "sm_90a", { deterministic: true }))).toEqual(["step_prefill/gpu_chunks 8192"]);
    expect(lines(await tasksOf("ernie-4.5-0.3b", "x86-64-v3"))).toEqual(["step_prefill/chunks 1024", "step_request/threads 256"]);
    expect(lines(await tasksOf("ernie-4.5-0.3b", "x86-64-v3", { cores: 1 }))).toEqual(["step_prefill/chunks 1024"]);
    expect(lines(await tasksOf("ernie-4.5-0.3b", "x86-64-v3", { sizes: { batches: [1], tokens: [] } }))).toEqual([
      "step_request/threads 256",
    ]);
  });

  it("name sizes and no model, are found by a glob, and have keys that give them back", async () => {
    const tasks = [
      ...(await tasksOf("ernie-4.5-0.3b", "sm_90a")),
      ...(await tasksOf("ernie-4.5-21b-a3b", "sm_90a")),
      ...(await tasksOf("ernie-4.5-300b-a47b", "x86-64-v4-bf16")),
    ];
    expect(matching(tasks, "step*")).toEqual(tasks);
    expect(lines(matching(tasks, "persistent"))).toEqual([]);
    for (const task of tasks) expect(parseTask(task.key)).toEqual(task);
    expect(tasks[0]?.key).toBe(
      "step_decode/launches ffn=3072 head_dim=128 heads=16 hidden=1024 kv_heads=2 layers=18 sequences=1 tied=true vocab=103424 x=bf16 rows=1",
    );
  });

  it.each([
    ["of no model's sizes", / hidden=\d+/, " hidden=7777777"],
    ["of more layers than any has", / layers=\d+/, " layers=99999"],
    ["with a field that no step has", / layers=/, " cluster=2 layers="],
    ["with experts of no width", / layers=/, " experts=64 layers="],
    ["of a kind that there is not", "launches", "teleport"],
  ])("%s are no task", async (_, from, to) => {
    const [task] = await tasksOf("ernie-4.5-0.3b", "sm_90a");
    expect(parseTask((task as Task).key.replace(from, to))).toBeUndefined();
    const job = {
      kind: "trial",
      device: "d",
      build: "b",
      task: (task as Task).key.replace(from, to),
      variants: [""],
      incumbent: null,
      seed: 1,
    };
    expect(parseJob(job, "d", "b")).toBe("a task that this build does not know");
  });

  it("have the default in their spaces; that of a launch is what persist-decode makes without a measurement", async () => {
    for (const task of [...(await tasksOf("ernie-4.5-0.3b", "sm_90a")), ...(await tasksOf("ernie-4.5-0.3b", "x86-64-v3"))]) {
      const space = taskSpace(task, task.kernel.target === "cuda" ? "sm_90a" : "x86-64-v3");
      expect(indexOf(space, defaultVariant(task))).toBeDefined();
      expect(space.size).toBeGreaterThan(1);
      if (task.op !== "step_decode") continue;
      const open = { group: 8, eps: 1e-5, scale: 1, theta: 1, block_size: 64, kv_block_bytes: 64 };
      const params = persistentParams({ ...task.problem, ...open } as unknown as Parameters<typeof persistentParams>[0], task.rows);
      const { pace, under_way, head_under_way, stages } = params as { readonly [name: string]: number };
      const variant = { kernel: "persistent", pace, under_way, head_under_way, stages } as { readonly [name: string]: string | number };
      expect(indexOf(space, variant)).toBeDefined();
      expect(parseVariant(task, variantKey(variant))).toEqual(variant);
      expect(parseVariant(task, variantKey({ ...variant, pace: 1161 }))).toBeUndefined();
      expect(parseVariant(task, variantKey({ ...variant, kernel: "teleport" }))).toBeUndefined();
    }
  });

  it("say roughly what a step moves", async () => {
    const [decode] = await tasksOf("ernie-4.5-0.3b", "sm_90a");
    // The 0.36 billion weights, which a tied head shares with the embedding.
    expect((decode as Task).kernel.cost((decode as Task).problem, 1).bytes / 2).toBeCloseTo(360.6e6, -6);
  });
});

describe("a problem", () => {
  it.each(PRESET_NAMES)("of %s is a model again", (name) => {
    const problem = stepProblem(parseConfig(presetConfig(name), name).config, "bf16");
    expect(stepProblem(parseConfig(stepConfig(problem), "problem").config, "bf16")).toEqual(problem);
    expect(isStepProblem(problem)).toBe(true);
    expect(isStepProblem({ ...problem, heads: 7 })).toBe(false);
  });

  it("is measured on fewer layers where four packages do not fit, never on fewer than one of each kind", () => {
    const problem = stepProblem(parseConfig(presetConfig("ernie-4.5-21b-a3b"), "").config, "bf16");
    expect(layersThatFit(problem, 100e9)).toBe(28);
    const fitting = layersThatFit(problem, 16e9);
    expect([fitting > 6, fitting < 12]).toEqual([true, true]);
    expect(layersThatFit(problem, 1)).toBe(3);
  });
});

// --- what a build makes of a row --------------------------------------------------------------------------------------

const PERSISTENT = { pace: 1200, under_way: 3, head_under_way: 4, stages: 9 };
const SMALL = { ...presetConfig("ernie-4.5-0.3b"), num_hidden_layers: 2 };

function rowOf(op: string, problem: KernelParams, rows: number, kernel: string, params: KernelParams): TuningRow {
  return { op, problem, layouts: {}, rows, winner: { kernel, params, seconds: 1e-4 } };
}

function persistentBuckets(rows: readonly TuningRow[], more: Partial<LowerInput> = {}): { readonly [program: string]: number } {
  const { config } = parseConfig(SMALL, "small");
  const limits = { maxContext: 8192, maxBatch: 16, kvTokens: 16384, prefillChunk: 128, blockSize: 64 };
  const input = { config, weights: declareWeights(config), activations: "bf16", arch: "sm_90a", limits, deterministic: false } as const;
  const { kernels } = lowerModel({ ...input, decode: null, tuning: { device: "d", rows }, ...more });
  const found = kernels.filter(({ kernel }) => kernel === PERSISTENT_DECODE);
  return Object.fromEntries(
    found.flatMap(({ launches, params }) => Object.keys(launches).map((program) => [program, Number(params.pace)])),
  );
}

describe("a row about decode steps", () => {
  const problem = stepProblem(parseConfig(SMALL, "small").config, "bf16");
  const row = (sequences: number, kernel = "persistent", params: KernelParams = PERSISTENT): TuningRow =>
    rowOf("step_decode", { ...problem, sequences }, sequences, kernel, params);

  it("is of its bucket alone, with the tunables that it names", () => {
    expect(persistentBuckets([])).toEqual({});
    // The programs with launches stay for GPUs that cannot run it.
    expect(persistentBuckets([row(1), row(4, "persistent", { ...PERSISTENT, pace: 1350 })])).toEqual({
      decode_s1_persistent: 1200,
      decode_s4_persistent: 1350,
    });
    expect(persistentBuckets([row(1, "launches", {})])).toEqual({});
  });

  it("yields to what the request says", () => {
    expect(persistentBuckets([row(1)], { decode: "launches" })).toEqual({});
    expect(persistentBuckets([row(1), row(2, "launches", {})], { decode: "persistent" })).toEqual({
      decode_s1: 1200,
      decode_s2: 1200,
      decode_s4: 1350,
      decode_s8: 1650,
    });
  });

  it("says nothing where its launch cannot be: on another GPU, in another order of sums, of another size, of another version", () => {
    expect(persistentBuckets([row(1)], { arch: "sm_80" })).toEqual({});
    expect(persistentBuckets([row(1)], { deterministic: true })).toEqual({});
    expect(persistentBuckets([rowOf("step_decode", { ...problem, layers: 3, sequences: 1 }, 1, "persistent", PERSISTENT)])).toEqual({});
    expect(persistentBuckets([row(1, "teleport", {})])).toEqual({});
    expect(persistentBuckets([row(1, "persistent", { ...PERSISTENT, pace: 7 })])).toEqual({});
    expect(persistentBuckets([row(1, "persistent", { ...PERSISTENT, spin: 7 })])).toEqual({});
    // Of the same sizes and yet no step that the launch knows: it has no norm in front of its products.
    expect(lowerQuietly([row(1)])).toBe(0);
  });

  function lowerQuietly(rows: readonly TuningRow[]): number {
    const { config } = parseConfig(SMALL, "small");
    const limits = { maxContext: 8192, maxBatch: 16, kvTokens: 16384, prefillChunk: 128, blockSize: 64 };
    const input = { config, weights: declareWeights(config), activations: "bf16", arch: "sm_90a", limits, deterministic: false } as const;
    const { kernels } = lowerModel({ ...input, decode: null, tuning: { device: "d", rows } }, { disablePasses: ["fuse-norm"] });
    return kernels.filter(({ kernel }) => kernel === PERSISTENT_DECODE).length;
  }
});

describe("a row about prompts or threads", () => {
  const model = join(MODELS, "ernie-mini-dense");

  async function built(rows: readonly TuningRow[], flags: RequestFlags = {}): Promise<readonly string[]> {
    const request = await resolveRequest(model, { arch: "x86-64-v3", dryRun: true, ...flags });
    return (await compile(request, { dryRun: true, table: { device: "d", rows } })).programs.map(({ name }) => name);
  }

  it("decides about the prefill chunk unless the request does", async () => {
    const { config } = await resolveRequest(model, { dryRun: true });
    const problem = stepProblem(config, "bf16");
    const row = rowOf("step_prefill", problem, 1024, "chunks", { chunk: 256 });
    expect(await built([])).toContain("prefill_t512");
    expect(await built([row])).toContain("prefill_t256");
    expect(await built([row], { prefillChunk: 512 })).toContain("prefill_t512");
    // Of a model with experts it says nothing, nor does one of a chunk that is none.
    expect(await built([{ ...row, problem: { ...problem, experts: 8 } }])).toContain("prefill_t512");
    expect(await built([rowOf("step_prefill", problem, 1024, "chunks", { chunk: 300 })])).toContain("prefill_t512");
  });

  it("decides about threads unless the request does", async () => {
    const { config } = await resolveRequest(model, { dryRun: true });
    const cores = availableParallelism();
    if (cores < 2) return;
    const rows = [rowOf("step_request", { ...stepProblem(config, "bf16"), cores }, 256, "threads", { threads: 1 })];
    const threadsOf = async (flags: RequestFlags): Promise<number> => {
      const out = join(root, `threads-${Object.keys(flags).length}`);
      const arch = bestArch(readCpuFlags()) ?? "x86-64-v3";
      const request = await resolveRequest(model, { arch, weights: "synthetic:1", out, ...flags });
      await compile(request, { table: { device: "d", rows } });
      const { target } = JSON.parse(readFileSync(join(out, "manifest.json"), "utf8")) as { target: { threads: number } };
      return target.threads;
    };
    expect(await threadsOf({})).toBe(1);
    expect(await threadsOf({ threads: 2 })).toBe(2);
  }, 180_000);
});

// --- measuring --------------------------------------------------------------------------------------------------------

const ANSWERS: Answers = {
  spread: 2,
  answers: [
    {
      ids: [5, 6],
      tops: [
        [
          [5, -1],
          [9, -1.02],
        ],
        [
          [6, -2],
          [7, -3],
        ],
      ],
    },
  ],
};

describe("answers", () => {
  const bar = { exact: false, experts: false };
  const moved = (by: number): Answers => ({
    ...ANSWERS,
    answers: ANSWERS.answers.map(({ ids, tops }) => ({
      ids,
      tops: tops.map((top) => top.map(([id, logprob]) => [id, logprob + by] as const)),
    })),
  });
  const said = (ids: readonly number[], answers = ANSWERS): Answers => ({
    ...answers,
    answers: answers.answers.map(({ tops }) => ({ ids, tops })),
  });

  it("are alike within what roundings move", () => {
    expect(answersDiffer(ANSWERS, ANSWERS, bar)).toBeUndefined();
    expect(answersDiffer(moved(0.02), ANSWERS, bar)).toBeUndefined();
    expect(answersDiffer(moved(0.1), ANSWERS, bar)).toMatch(/logits differ by 2.5e-3 of their spread/);
  });

  it("are alike with another token where the two were as probable, and no other", () => {
    expect(answersDiffer(said([9, 1]), ANSWERS, bar)).toBeUndefined();
    expect(answersDiffer(said([5, 7]), ANSWERS, bar)).toMatch(/token 1 of answer 0 differs, 0.500 of the logits' spread apart/);
    expect(answersDiffer(said([5, 8]), ANSWERS, bar)).toMatch(/token 1/);
    expect(answersDiffer(said([5]), ANSWERS, bar)).toMatch(/another length/);
    expect(answersDiffer({ spread: 2, answers: [] }, ANSWERS, bar)).toMatch(/another length/);
  });

  it("of experts are judged by what is usual, and of threads by every bit", () => {
    expect(answersDiffer(said([5, 7]), ANSWERS, { exact: false, experts: true })).toBeUndefined();
    expect(answersDiffer(moved(0.1), ANSWERS, { exact: false, experts: true })).toMatch(/logits differ/);
    expect(answersDiffer(moved(1e-9), ANSWERS, { exact: true, experts: false })).toMatch(/differs in bits/);
    const lost = JSON.parse(JSON.stringify(moved(Number.NaN))) as Answers;
    for (const exact of [true, false]) expect(answersDiffer(lost, lost, { exact, experts: false })).toMatch(/no number/);
  });
});

/** Packages that are made up: how long each takes, or how it fails. */
class Made implements StepPlatform {
  readonly built: string[] = [];
  running = 0;
  most = 0;
  closed = false;
  inUse = false;

  constructor(
    private readonly secondsOf: (variant: string) => number | Error,
    private readonly answersOf: (variant: string) => Answers = () => ANSWERS,
  ) {}

  async build(_: Task, variant: Task["problem"] | object, rows: readonly TuningRow[]): Promise<string> {
    const key = variantKey(variant as { readonly [name: string]: number });
    this.built.push(`${key}${rows.length > 0 ? ` beside ${rows.length}` : ""}`);
    const seconds = this.secondsOf(key);
    if (seconds instanceof Diagnostic) throw seconds;
    return key;
  }

  async start(_: Task, folder: string): Promise<StepProcess> {
    expect(this.inUse).toBe(true);
    this.most = Math.max(this.most, ++this.running);
    const seconds = this.secondsOf(folder);
    let round = 0;
    return {
      check: async () => {
        if (seconds instanceof Error) throw seconds;
        return Buffer.from(JSON.stringify(this.answersOf(folder)));
      },
      time: async (rounds) => ({
        launches: 1,
        times: [Array.from({ length: rounds }, () => 1e9 * (seconds as number) * (1 + 0.001 * (round++ % 3)))],
      }),
      end: async () => {
        this.running--;
      },
    };
  }

  async alone<T>(work: () => Promise<T>): Promise<T> {
    this.inUse = true;
    try {
      return await work();
    } finally {
      this.inUse = false;
    }
  }

  async close(): Promise<void> {
    this.closed = true;
  }
}

/** To see that it works, not how long anything takes. */
const QUICK = { ...STEP_TRIAL_RULE, first: 3, maxRounds: 3 };

const MACHINE: Machine = { cpu: "made up", threads: 8, arch: "x86-64-v3", cacheBytes: 2 ** 20 };
let journals = 0;

async function sweep(platform: StepPlatform, tasks: readonly Task[]) {
  const journal = join(root, `${journals++}.jsonl`);
  const refuse = () => Promise.reject(new Error("a kernel's"));
  const kernels = { trial: refuse, final: refuse, close: async () => undefined };
  const backend = new JoinedBackend(kernels, new StepBackend(platform, new Turns(0)));
  const common = {
    arch: "x86-64-v3",
    device: "d",
    machine: MACHINE,
    build: "b",
    strategy: DEFAULT_STRATEGY,
    seed: 1,
    trials: 200,
  } as const;
  await tune({ ...common, tasks, backend, journal, resume: false, table: `${journal}.json` });
  const { records } = await readJournal(journal);
  return { records, rows: rowsOfRecords(records) };
}

describe("a sweep of packages", () => {
  it("finds the fastest right one, and records why others are none", async () => {
    const [task] = await tasksOf("ernie-4.5-0.3b", "x86-64-v3", { sizes: { batches: [1], tokens: [] } });
    const failures: { readonly [variant: string]: Error } = {
      "threads=1": new HarnessEnd("crash", "ended by SIGSEGV"),
      "threads=2": new HarnessEnd("hang", "did not end within 300 s"),
      "threads=3": new Diagnostic({ code: "cxx-failed", message: "no" }),
      "threads=4": new HarnessEnd("error", "this package wants more than there is"),
    };
    const wrong: Answers = { ...ANSWERS, spread: 3, answers: [] };
    // 12 cores: threads 1, 2, 3, 4, 6, 8 besides all.
    const [wide] = await tasksOf("ernie-4.5-0.3b", "x86-64-v3", { cores: 12, sizes: { batches: [1], tokens: [] } });
    expect(taskSpace(task as Task, "x86-64-v3").size).toBe(6);
    const made = new Made(
      (variant) => (variant === "threads=8" ? 0.1 : (failures[variant] ?? (variant === "threads=6" ? 0.5 : 1))),
      (variant) => (variant === "threads=8" ? wrong : ANSWERS),
    );
    const { records, rows } = await sweep(made, [wide as Task]);
    const found = records.flatMap((record) => (record.kind === "trial" ? [[variantKey(record.variant), record.status]] : []));
    expect(Object.fromEntries(found)).toEqual({
      "threads=0": "ok",
      "threads=1": "crash",
      "threads=2": "hang",
      "threads=3": "compile",
      "threads=4": "error",
      "threads=6": "ok",
      "threads=8": "wrong",
    });
    expect(rows).toMatchObject([{ op: "step_request", rows: 256, winner: { kernel: "threads", params: { threads: 6 } } }]);
    expect([made.running, made.closed, made.inUse]).toEqual([0, true, false]);
  });

  it("loses early, and builds each package once, with the kernels that were found before", async () => {
    const tasks = await tasksOf("ernie-4.5-0.3b", "x86-64-v3", { sizes: { batches: [], tokens: [512] } });
    const platform = new Made((variant) => (variant === "chunk=512" ? 0.01 : 0.02));
    const { records, rows } = await sweep(platform, tasks);
    const stopped = records.flatMap((record) => (record.kind === "trial" && record.stopped ? [record.stopped] : []));
    expect(stopped.sort()).toEqual(["loses", "loses", "loses", "settled"]);
    expect(platform.built).toHaveLength(4);
    expect(rows).toMatchObject([{ winner: { params: { chunk: 512 } }, default: { params: { chunk: 512 } } }]);
  });

  it("of a whole model's choices on a GPU picks a launch a step where it is faster, and a package that cannot be loaded is none", async () => {
    const tasks = await tasksOf("ernie-4.5-0.3b", "sm_90a", { sizes: { batches: [1, 8], tokens: [] } });
    const platform = new Made((variant) =>
      variant.includes("kernel=persistent") ? (variant.includes("pace=1160") ? 2e-4 : 2.5e-4) : 3e-4,
    );
    const journal = join(root, "gpu.jsonl");
    const common = { arch: "sm_90a", device: "d", machine: MACHINE, build: "b", strategy: DEFAULT_STRATEGY, seed: 1, trials: 60 } as const;
    const backend = new StepBackend(platform, new Turns(4));
    await tune({ ...common, tasks, backend, journal, resume: false, table: join(root, "gpu.json"), parallel: 2 });
    const rows = rowsOfRecords((await readJournal(journal)).records);
    expect(rows.map(({ winner }) => [winner.kernel, winner.params.pace])).toEqual([
      ["persistent", 1160],
      ["persistent", 1160],
    ]);
    expect(rows.every((row) => row.default?.kernel === "launches")).toBe(true);
    // The launch as it is without a measurement is the first that is tried.
    expect(platform.built.find((built) => built.includes("persistent"))).toMatch(/kernel=persistent pace=(1160|1650) /);
    const refused = new Made((variant) =>
      variant.includes("persistent") ? new HarnessEnd("error", "kernel wants 128 multiprocessors") : 3e-4,
    );
    const step = new StepBackend(refused, new Turns(4));
    const variant = parseVariant(tasks[0] as Task, "head_under_way=4 kernel=persistent pace=1160 stages=9 under_way=2");
    const measured = await step.trial({ task: tasks[0] as Task, variant: variant ?? {}, seed: 1, incumbent: () => undefined });
    expect(measured).toEqual({ status: "error", reason: "kernel wants 128 multiprocessors" });
  });

  it("ends where nothing can be measured at all", async () => {
    const [task] = await tasksOf("ernie-4.5-0.3b", "x86-64-v3", { sizes: { batches: [1], tokens: [] } });
    const full = new Diagnostic({ code: "disk-full", kind: "environment", message: "no space" });
    await expect(sweep(new Made(() => full), [task as Task])).rejects.toMatchObject({ code: "disk-full" });
    let asked = 0;
    // Right in its trial, and gone in the final.
    const gone = new Made((variant) => (variant === "threads=0" && asked++ >= 8 ? new HarnessEnd("crash", "ended by SIGKILL") : 1));
    await expect(sweep(gone, [task as Task])).rejects.toMatchObject({ code: "tune-default-failed" });
  });

  it("for real: a package is built, answers bit for bit with one thread, and is timed", async () => {
    const arch = (bestArch(readCpuFlags()) ?? "x86-64-v3") as CpuArch;
    const { config } = await resolveRequest(join(MODELS, "ernie-mini-dense"), { dryRun: true });
    const [task] = stepTasks({ config, activations: "bf16", deterministic: false }, { batches: [1], tokens: [] }, arch, 2);
    const cacheRoot = new Cache().root;
    const options = { arch, threads: 2, cacheRoot, memory: () => 2 ** 30, rows: [], pause: async () => undefined };
    const backend = new StepBackend(await localSteps(options), new Turns(0), { trial: QUICK, final: QUICK });
    try {
      const request = { task: task as Task, seed: 1 };
      const first = await backend.trial({ ...request, variant: { threads: 0 }, incumbent: () => undefined });
      expect(first).toMatchObject({ status: "ok", stopped: expect.stringMatching(/settled|limit/) as string });
      const incumbent = { variant: { threads: 0 }, seconds: first.seconds as number };
      expect(await backend.trial({ ...request, variant: { threads: 1 }, incumbent: () => incumbent })).toMatchObject({ status: "ok" });
    } finally {
      await backend.close();
    }
  }, 300_000);
});

it("the table names each choice once, and each has its op", () => {
  expect(new Set(STEPS.map(({ op, name }) => `${op} ${name}`)).size).toBe(STEPS.length);
});
