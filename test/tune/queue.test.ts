/** Sweeps over a real Redis: workers that die, a server that restarts or stays away, jobs that somebody changed. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Queue } from "bullmq";
import { execa, execaSync } from "execa";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { loadModel } from "../../src/frontend/load-model.js";
import { resolveRequest } from "../../src/frontend/model-json.js";
import { kernelGraphs } from "../../src/lower.js";
import type { ArchLevel } from "../../src/toolchain/arch.js";
import type { Backend, FinalRequest, TrialRequest } from "../../src/tune/backend.js";
import { readJournal } from "../../src/tune/journal.js";
import { modelTasks, stepTasks } from "../../src/tune/model-tasks.js";
import { openQueue } from "../../src/tune/queue.js";
import { type JobData, parseJob, queueName } from "../../src/tune/queue-jobs.js";
import type { Finalist, Measured } from "../../src/tune/records.js";
import { ReplayBackend } from "../../src/tune/replay.js";
import { tune } from "../../src/tune/run.js";
import { seedOf } from "../../src/tune/run-sweep.js";
import type { Configuration } from "../../src/tune/space.js";
import { DEFAULT_STRATEGY } from "../../src/tune/strategies/index.js";
import { defaultVariant, type Task, variantKey } from "../../src/tune/task.js";
import { work } from "../../src/tune/worker.js";
import { CLI, ROOT } from "../e2e/support.js";
import { ARCH, MODEL, recordedTasks, STEPS, SWEEP, writeRecording } from "./recording.js";

/** Debian's redis-server, or another that speaks the same, such as valkey-server; without it these tests are left out. */
const SERVER = process.env.TEST_REDIS_SERVER || "redis-server";
const hasRedis = execaSync(SERVER, ["--version"], { reject: false }).exitCode === 0;
/** How long the server stays away in the longest test. */
const OUTAGE_MS = Number(process.env.TEST_REDIS_OUTAGE_MS || 1500);
const root = mkdtempSync(join(tmpdir(), "ernie-compile-queue-test-"));
const RECORDING = join(root, "recording.jsonl");
let tasks: readonly Task[] = [];
if (!hasRedis) process.stderr.write(`tuning over a queue: found no ${SERVER}: it is not tested\n`);
let port = 0;
let server: ChildProcess | undefined;
const children: { readonly kill: (signal: "SIGKILL") => unknown }[] = [];
const queues: Queue[] = [];

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const address = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  return typeof address === "object" && address ? address.port : 0;
}

/** Keeps nothing: what a restart loses is lost. */
async function startRedis(): Promise<void> {
  server = spawn(SERVER, ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", root], {
    stdio: "ignore",
  });
  for (let i = 0; i < 100; i++) {
    if (await answers()) return;
    await sleep(50);
  }
  throw new Error(`${SERVER} did not start`);
}

/** Whether it says PONG. */
async function answers(): Promise<boolean> {
  const socket = connect(port, "127.0.0.1");
  try {
    socket.write("PING\r\n");
    const [data] = (await once(socket, "data")) as [Buffer];
    return data.toString().startsWith("+PONG");
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

async function stopRedis(): Promise<void> {
  if (!server) return;
  const ended = new Promise((resolve) => server?.once("exit", resolve));
  server.kill("SIGKILL");
  await ended;
  server = undefined;
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const url = (): string => `redis://127.0.0.1:${port}`;

function startCli(args: readonly string[]) {
  const child = execa(process.execPath, [CLI, "tune", ...args], { reject: false, cwd: ROOT, all: true });
  children.push(child);
  return child;
}

function startWorker(delayMs: number) {
  return startCli(["worker", "--queue", url(), "--replay", RECORDING, "--replay-delay", String(delayMs), "--lost-after", "2"]);
}

function startSweep(name: string, ...flags: readonly string[]) {
  const files = ["--journal", join(root, `${name}.jsonl`), "-o", join(root, `${name}.json`)];
  const steps = ["--batch", STEPS.batches.join(), "--tokens", STEPS.tokens.join()];
  return startCli([MODEL, ...steps, "--trials", "40", "--replay", RECORDING, ...files, ...flags]);
}

beforeAll(async () => {
  tasks = await recordedTasks();
  await writeRecording(RECORDING);
  port = await freePort();
  if (hasRedis) await startRedis();
});
afterEach(async () => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
  for (const queue of queues.splice(0)) await queue.close();
});
afterAll(async () => {
  await stopRedis();
  rmSync(root, { recursive: true, force: true });
});

const HEAD = { device: SWEEP.device, build: SWEEP.build } as const;

describe.skipIf(!hasRedis)("a queue", () => {
  it("with 3 workers, one killed in mid-job, and a server that restarts and forgets, gives the table of one process", async () => {
    const alone = await startSweep("alone");
    expect(alone.exitCode).toBe(0);
    const [first] = [startWorker(20), startWorker(20), startWorker(20)];
    const sweep = startSweep("queue", "--queue", url());
    const journal = join(root, "queue.jsonl");
    const atLeast = async (trials: number): Promise<void> => {
      while ((await readJournal(journal)).records.filter(({ kind }) => kind === "trial").length < trials) await sleep(20);
    };
    await atLeast(60);
    first?.kill("SIGKILL");
    await atLeast(150);
    await stopRedis();
    await sleep(OUTAGE_MS);
    await startRedis();
    const { exitCode, all } = await sweep;
    expect([exitCode, exitCode === 0 ? "" : all]).toEqual([0, ""]);
    expect(all).toContain("redis is gone");
    expect(readFileSync(join(root, "queue.json"), "utf8")).toBe(readFileSync(join(root, "alone.json"), "utf8"));
    const trials = (await readJournal(journal)).records.flatMap((record) =>
      record.kind === "trial" ? [`${record.task} ${variantKey(record.variant)}`] : [],
    );
    expect(new Set(trials).size).toBe(trials.length);
  });

  it("takes less than 5 ms a trial", async () => {
    const backend = await ReplayBackend.open(RECORDING);
    const stop = new AbortController();
    const worker = work({ url: url(), ...HEAD, backend, onNote: () => undefined, signal: stop.signal });
    const queue = await openQueue({ url: url(), ...HEAD, onNote: () => undefined });
    const task = tasks[0] as Task;
    const ask = (seed: number) => queue.trial({ task, variant: defaultVariant(task), incumbent: () => undefined, seed });
    await ask(0);
    const times: number[] = [];
    for (let seed = 1; seed <= 200; seed++) {
      const start = performance.now();
      await ask(seed);
      times.push(performance.now() - start);
    }
    await queue.close();
    stop.abort();
    await worker;
    times.sort((a, b) => a - b);
    // Other test files run beside this one, and only add to it.
    expect(times[50]).toBeLessThan(5);
  });

  it("puts its own job in the place of one that was tampered with, and ends where that goes on", async () => {
    const backend = await ReplayBackend.open(RECORDING);
    const stop = new AbortController();
    const notes: string[] = [];
    const note = (text: string): void => {
      notes.push(text);
    };
    const queue = await openQueue({ url: url(), ...HEAD, onNote: note, pollMs: 50 });
    const task = tasks[1] as Task;
    const asked = queue.trial({ task, variant: defaultVariant(task), incumbent: () => undefined, seed: 7 });
    const raw = new Queue(queueName(HEAD.device, HEAD.build), { connection: { url: url() } });
    queues.push(raw);
    await expect.poll(async () => (await raw.getWaiting()).length, { timeout: 5000 }).toBe(1);
    const [job] = await raw.getWaiting();
    await job?.updateData({ ...(job.data as JobData), task: "linear/linear; rm -rf / rows=1" });
    const worker = work({ url: url(), ...HEAD, backend, onNote: note, signal: stop.signal });
    expect(await asked).toMatchObject({ status: "ok" });
    expect(notes.join("\n")).toContain("refused a job that holds a task that this build does not know");
    await queue.close();
    stop.abort();
    await worker;
  });

  it("gives a job of a worker that can measure no more to another", async () => {
    const [broken, whole] = [await ReplayBackend.open(RECORDING), await ReplayBackend.open(RECORDING)];
    const full = Object.assign(new Error("no space is left"), { code: "disk-full" });
    const common = { url: url(), ...HEAD, onNote: () => undefined } as const;
    const first = work({
      ...common,
      backend: { trial: () => Promise.reject(full), final: () => Promise.reject(full), close: () => broken.close() },
    });
    const ended = expect(first).rejects.toMatchObject({ code: "disk-full" });
    const queue = await openQueue(common);
    const task = tasks[2] as Task;
    const asked = queue.trial({ task, variant: defaultVariant(task), incumbent: () => undefined, seed: 9 });
    await ended;
    const stop = new AbortController();
    const second = work({ ...common, backend: whole, signal: stop.signal });
    expect(await asked).toMatchObject({ status: "ok" });
    await queue.close();
    stop.abort();
    await second;
  });

  it("waits for a server that is gone, gives up after its patience, and has lost nothing", async () => {
    const backend = await ReplayBackend.open(RECORDING, 5);
    const stop = new AbortController();
    const worker = work({ url: url(), ...HEAD, backend, onNote: () => undefined, signal: stop.signal, patience: 2 });
    const gaveUp = expect(worker).rejects.toMatchObject({ code: "queue-gone" });
    const notes: string[] = [];
    const queue = await openQueue({ url: url(), ...HEAD, onNote: (text) => notes.push(text), patience: 2 });
    const journal = join(root, "gone.jsonl");
    let trials = 0;
    const common = {
      tasks,
      arch: ARCH,
      machine: SWEEP.machine,
      ...HEAD,
      strategy: DEFAULT_STRATEGY,
      seed: 1,
      trials: 40,
      journal,
      table: join(root, "gone.json"),
    } as const;
    const sweep = tune({
      ...common,
      backend: queue,
      resume: false,
      parallel: 4,
      onEvent: ({ kind }) => {
        if (kind === "trial" && ++trials === 40) void stopRedis();
      },
    });
    await expect(sweep).rejects.toMatchObject({ code: "queue-gone", hint: expect.stringContaining("--resume") as string });
    await gaveUp;
    expect(notes[0]).toContain("redis is gone");
    const kept = (await readJournal(journal)).records.filter(({ kind }) => kind === "trial").length;
    expect(kept).toBeGreaterThanOrEqual(trials);
    // With no server any more.
    await tune({ ...common, backend: await ReplayBackend.open(RECORDING), resume: true });
    expect(readFileSync(common.table, "utf8")).toBe(readFileSync(join(root, "alone.json"), "utf8"));
    await startRedis();
  }, 60_000);
});

/** Measures by a formula; counts whom it was asked for. */
class Formula implements Backend {
  readonly asked = new Set<string>();

  async trial({ task, variant }: TrialRequest): Promise<Measured> {
    this.asked.add(task.key);
    const seconds = secondsOf(task, variant);
    return { status: "ok", seconds, low: seconds, high: seconds };
  }
  async final({ task, variants }: FinalRequest): Promise<readonly Finalist[]> {
    this.asked.add(task.key);
    const standard = secondsOf(task, variants[0] as Configuration);
    return variants.map((variant) => {
      const seconds = secondsOf(task, variant);
      const ratio = seconds / standard;
      return { variant, seconds, low: seconds, high: seconds, ratio, ratioLow: ratio, ratioHigh: ratio };
    });
  }
  async close(): Promise<void> {}
}

function secondsOf(task: Task, variant: Configuration): number {
  return 1e-4 * (1 + seedOf(task.key, variantKey(variant)) / 2 ** 32);
}

describe.skipIf(!hasRedis)("workers of several device classes", () => {
  const GPU = { device: "sm_90a-nvidia-h100-80gb-hbm3", build: "gpu0123456789abc" } as const;

  async function gpuTasks(): Promise<readonly Task[]> {
    const request = await resolveRequest("ernie-4.5-0.3b", { target: "cuda", arch: "sm_90a", dryRun: true });
    const { weights } = await loadModel(request);
    const sizes = { batches: [1, 8], tokens: [512] };
    const graphs = kernelGraphs({ ...request, weights, arch: "sm_90a", tuning: undefined });
    return [...modelTasks(graphs, sizes, "sm_90a"), ...stepTasks(request, sizes, "sm_90a", 8)];
  }

  it("take jobs of their own: two GPUs give the table of one process, and the CPU beside them measures nothing of it", async () => {
    const stop = new AbortController();
    const common = { url: url(), onNote: () => undefined, signal: stop.signal };
    const [cpu, first, second] = [new Formula(), new Formula(), new Formula()];
    const workers = [
      work({ ...common, ...HEAD, backend: cpu }),
      work({ ...common, ...GPU, backend: first }),
      work({ ...common, ...GPU, backend: second }),
    ];
    const all = await gpuTasks();
    const sweep = async (name: string, backend: Backend, device: typeof GPU | typeof HEAD, chosen: readonly Task[], arch: ArchLevel) => {
      const path = (kind: string): string => join(root, `${name}.${kind}`);
      const settings = { strategy: DEFAULT_STRATEGY, seed: 1, trials: 12, resume: false, parallel: 4, machine: SWEEP.machine };
      await tune({ ...settings, ...device, backend, tasks: chosen, arch, journal: path("jsonl"), table: path("json") });
      return readFileSync(path("json"), "utf8");
    };
    const open = (device: typeof GPU | typeof HEAD) => openQueue({ url: url(), ...device, onNote: () => undefined });
    const own = tasks.slice(0, 2);
    const [onGpus] = await Promise.all([
      sweep("gpus", await open(GPU), GPU, all, "sm_90a"),
      sweep("cpu", await open(HEAD), HEAD, own, ARCH),
    ]);
    expect(onGpus).toBe(await sweep("gpu-alone", new Formula(), GPU, all, "sm_90a"));
    expect([...cpu.asked].sort()).toEqual(own.map(({ key }) => key).sort());
    expect([...new Set([...first.asked, ...second.asked])].sort()).toEqual(all.map(({ key }) => key).sort());
    expect([first.asked.size > 0, second.asked.size > 0]).toEqual([true, true]);
    expect(all.map(({ op }) => op)).toContain("step_decode");
    stop.abort();
    await Promise.all(workers);
  });

  it("refuse a job of another class that is in their queue all the same", async () => {
    const stop = new AbortController();
    const notes: string[] = [];
    const cpu = new Formula();
    const worker = work({ url: url(), ...HEAD, backend: cpu, onNote: (text) => notes.push(text), signal: stop.signal });
    const [task] = await gpuTasks();
    const raw = new Queue(queueName(HEAD.device, HEAD.build), { connection: { url: url() } });
    queues.push(raw);
    const variant = variantKey(defaultVariant(task as Task));
    await raw.add("trial", { kind: "trial", ...GPU, task: (task as Task).key, variants: [variant], incumbent: null, seed: 1 });
    await expect.poll(() => notes, { timeout: 5000 }).toContain("refused a job that holds of another device class or build");
    expect(cpu.asked.size).toBe(0);
    stop.abort();
    await worker;
  });
});

describe("a job", () => {
  const good = (): JobData => {
    const task = tasks[0] as Task;
    return { kind: "trial", ...HEAD, task: task.key, variants: [variantKey(defaultVariant(task))], incumbent: null, seed: 1 };
  };

  it("that is whole is read", () => {
    expect(parseJob(good(), HEAD.device, HEAD.build)).toMatchObject({ kind: "trial", task: { key: tasks[0]?.key } });
  });

  it.each<[string, (job: JobData) => unknown]>([
    ["nothing", () => null],
    ["of another kind", (job) => ({ ...job, kind: "shell" })],
    ["of another device", (job) => ({ ...job, device: "x86-64-v3-other" })],
    ["of another build", (job) => ({ ...job, build: "0" })],
    ["with a field more", (job) => ({ ...job, source: "int main() {}" })],
    ["with a path for a task", (job) => ({ ...job, task: "../../etc/passwd" })],
    ["of a kernel that there is not", (job) => ({ ...job, task: job.task.replace("head_argmax/", "system/") })],
    ["of a size that is no number", (job) => ({ ...job, task: job.task.replace(/ n=[0-9]+/, " n=NaN") })],
    ["of a size that no memory holds", (job) => ({ ...job, task: job.task.replace(/rows=[0-9]+/, "rows=1000000") })],
    ["with a field of a problem twice", (job) => ({ ...job, task: job.task.replace(/( n=[0-9]+)/, "$1$1") })],
    ["with a tunable that there is not", (job) => ({ ...job, variants: [`${job.variants[0]} evil=1`] })],
    ["with a value that there is not", (job) => ({ ...job, variants: [job.variants[0]?.replace(/k_block=[0-9]+/, "k_block=257")] })],
    ["with two variants for one trial", (job) => ({ ...job, variants: [job.variants[0], job.variants[0]] })],
    ["with a seed that is none", (job) => ({ ...job, seed: -1 })],
    ["with an incumbent of no time", (job) => ({ ...job, incumbent: { variant: job.variants[0], seconds: 0 } })],
  ])("%s is refused", (_, change) => {
    expect(parseJob(change(good()), HEAD.device, HEAD.build)).toEqual(expect.any(String));
  });
});
