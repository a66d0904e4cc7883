/**
 * Measures choices above a kernel (src/kernels/steps.ts): a variant is a whole package, each in a process of its own. It must answer as the default's does; then
 * it is timed in turns with the incumbent, by the same rules as kernels. How packages are built and started is the platform's: local-steps.ts.
 */

import { Diagnostic } from "../diagnostics.js";
import type { TuningRow } from "../kernels/tuning.js";
import type { Backend, FinalRequest, TrialRequest } from "./backend.js";
import { type Harness, HarnessEnd, type Times } from "./harness.js";
import type { Finalist, Measured } from "./records.js";
import type { Configuration } from "./space.js";
import { STEP_FINAL_RULE, STEP_TRIAL_RULE, type StopRule } from "./stats.js";
import { type Answers, answersDiffer, type Likeness } from "./step-answers.js";
import { defaultVariant, kernelOf, type Task, variantKey } from "./task.js";
import { type Run, timeFinal, timeTrial } from "./timing.js";
import type { Turns } from "./turns.js";

export interface StepPlatform {
  readonly signal?: AbortSignal | undefined;
  /** The folder of the variant's package, with other kernels as these rows say. */
  build(task: Task, variant: Configuration, rows: readonly TuningRow[]): Promise<string>;
  /** A process that has loaded it. */
  start(task: Task, folder: string): Promise<StepProcess>;
  /** Work with the device to itself. */
  alone<T>(work: () => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

export type StepProcess = Pick<Harness, "check" | "time" | "end">;

/** What the compiler says of a variant, not of the machine. */
const BLAMED = new Set(["nvcc-failed", "cxx-failed", "kernel-spills", "decode-persistent-unsupported"]);

export class StepBackend implements Backend {
  readonly #built = new Map<string, Promise<string>>();
  /** The default's, by task. */
  readonly #answers = new Map<string, { readonly seed: number; readonly answers: Answers }>();
  #rows: (() => readonly TuningRow[]) | undefined;

  constructor(
    private readonly platform: StepPlatform,
    private readonly turns: Turns,
    private readonly rules: { readonly trial: StopRule; readonly final: StopRule } = { trial: STEP_TRIAL_RULE, final: STEP_FINAL_RULE },
  ) {}

  /** Those of the first package count: packages that are compared have the same kernels. */
  useRows(rows: () => readonly TuningRow[]): void {
    let found: readonly TuningRow[] | undefined;
    this.#rows = () => {
      found ??= rows();
      return found;
    };
  }

  async trial({ task, variant, incumbent, seed }: TrialRequest): Promise<Measured> {
    const folder = await this.#build(task, variant).catch((error: unknown) => this.#notBuilt(error));
    if (typeof folder !== "string") return folder;
    const against = incumbent();
    const other = against && variantKey(against.variant) !== variantKey(variant) ? against : undefined;
    const folders = [folder, ...(other ? [await this.#build(task, other.variant)] : [])];
    return this.#measured(task, [variant], folders, seed, (run) => timeTrial(run, other, this.rules.trial));
  }

  /** One that fails beside the others ends the comparison with them: the default is timed alone, and nothing takes its place. */
  async final({ task, variants, seed }: FinalRequest): Promise<readonly Finalist[]> {
    const folders = await Promise.all(variants.map((variant) => this.#build(task, variant)));
    const timed = async (count: number): Promise<{ readonly result: Measured; readonly finalists: readonly Finalist[] }> => {
      let finalists: readonly Finalist[] = [];
      const chosen = variants.slice(0, count);
      const result = await this.#measured(task, chosen, folders.slice(0, count), seed, async (run) => {
        // Alone there is nothing to compare with.
        finalists = await timeFinal(run, chosen, count === 1 ? this.rules.trial : this.rules.final);
        return { status: "ok" };
      });
      return { result, finalists };
    };
    const all = await timed(variants.length);
    const { result, finalists } = all.result.status === "ok" || variants.length === 1 ? all : await timed(1);
    if (result.status === "ok") return finalists;
    throw new Diagnostic({
      code: "tune-default-failed",
      kind: "environment",
      message: `the default variant was measured before and now fails: ${result.reason ?? result.status}`,
      place: task.key,
      hint: "run again with --resume",
    });
  }

  async close(): Promise<void> {
    await Promise.allSettled([...this.#built.values()]);
    await this.platform.close();
  }

  #build(task: Task, variant: Configuration): Promise<string> {
    const key = `${task.key} | ${variantKey(variant)}`;
    let folder = this.#built.get(key);
    if (!folder) {
      folder = this.turns.compile(() => this.platform.build(task, variant, this.#rows?.() ?? []));
      folder.catch(() => undefined);
      this.#built.set(key, folder);
    }
    return folder;
  }

  #notBuilt(error: unknown): Measured {
    this.platform.signal?.throwIfAborted();
    if (!(error instanceof Diagnostic) || !BLAMED.has(error.code)) throw error;
    return { status: error.code === "kernel-spills" ? "spills" : "compile", reason: error.summary.slice(0, 2000) };
  }

  /** Starts all packages; the first of them, of `variants`, must answer as the default does. Then has all timed. */
  async #measured(
    task: Task,
    variants: readonly Configuration[],
    folders: readonly string[],
    seed: number,
    timed: (run: Run) => Promise<Measured>,
  ): Promise<Measured> {
    const standard = defaultVariant(task);
    const standardFolder = await this.#build(task, standard);
    const running: StepProcess[] = [];
    const start = async (folder: string): Promise<StepProcess> => {
      const process = await this.platform.start(task, folder);
      running.push(process);
      return process;
    };
    const work = async (): Promise<Measured> => {
      try {
        const known = this.#answers.get(task.key);
        const wanted = known ?? { seed, answers: await ask(await start(standardFolder), seed) };
        this.#answers.set(task.key, wanted);
        // Not kept beside the others: a large model may not fit so often.
        await Promise.all(running.splice(0).map((process) => process.end()));
        for (const folder of folders) await start(folder);
        for (const [i, variant] of variants.entries()) {
          const found = await ask(running[i] as StepProcess, wanted.seed);
          const reason = answersDiffer(found, wanted.answers, likenessOf(task, variant));
          if (reason) return { status: "wrong", reason };
        }
        return await timed({ harness: { time: (rounds, which) => inTurns(running, rounds, which) }, count: folders.length });
      } catch (error) {
        if (error instanceof HarnessEnd) return { status: error.status, reason: error.message };
        throw error;
      } finally {
        await Promise.all(running.map((process) => process.end()));
      }
    };
    return this.turns.measure(() => this.platform.alone(work));
  }
}

/** Threads share out rows, never sums. Sequences that run together may meet in other steps each time, so of other choices not even the default is asked for equal bits. */
function likenessOf(task: Task, variant: Configuration): Likeness {
  return { exact: kernelOf(task, variant).name === "threads", experts: task.problem.experts !== undefined };
}

async function ask(process: StepProcess, seed: number): Promise<Answers> {
  return JSON.parse((await process.check(0, seed, new Uint8Array())).toString()) as Answers;
}

/** Each round once through all, in every second one backwards. */
async function inTurns(processes: readonly StepProcess[], rounds: number, which: readonly number[]): Promise<Times> {
  const times = which.map((): number[] => []);
  let launches = 1;
  for (let round = 0; round < rounds; round++) {
    const order = [...which.keys()];
    if (round % 2 === 1) order.reverse();
    for (const i of order) {
      const once = await (processes[which[i] as number] as StepProcess).time(1, [0]);
      times[i]?.push(...(once.times[0] ?? []));
      launches = once.launches;
    }
  }
  return { launches, times };
}
