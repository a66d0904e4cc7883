/**
 * A sweep: each task in turn is searched by a strategy until its budget is spent, then its best variants run once more against the default. What is
 * asked depends on the task, the seed and the answers alone, and answers that the journal has are not measured again; so a sweep that was killed
 * goes on where it was, and shards and workers find what one process finds.
 */

import { bug } from "../diagnostics.js";
import type { ArchLevel } from "../toolchain/arch.js";
import { sha256 } from "../toolchain/cache.js";
import type { Backend, Incumbent } from "./backend.js";
import { Known } from "./known.js";
import { predictSpace } from "./predict.js";
import { Random } from "./random.js";
import type { FinalRecord, JournalRecord, Measured, TaskRecord } from "./records.js";
import type { Configuration, Space } from "./space.js";
import { randomStrategy } from "./strategies/random.js";
import type { StrategyDef } from "./strategies/strategy.js";
import { defaultVariant, indexOf, kernelDefaults, paramsOf, type Task, taskSpace, variantAt, variantKey } from "./task.js";

export interface SweepOptions {
  readonly tasks: readonly Task[];
  readonly arch: ArchLevel;
  readonly device: string;
  /** What the machine gives, if it was measured. */
  readonly limits?: TaskRecord["limits"] | undefined;
  readonly backend: Backend;
  readonly strategy: StrategyDef;
  readonly seed: number;
  /** Of each task; the default variant is one of them. */
  readonly trials: number;
  /** Of the whole sweep, spread evenly over the tasks that are left. */
  readonly seconds?: number | undefined;
  /** Tasks that are under way at once: more than one only where there is more than one device. */
  readonly parallel?: number | undefined;
  /** Whatever was recorded before. */
  readonly found: readonly JournalRecord[];
  /** Resolves once it is safe. */
  readonly append: (record: JournalRecord) => Promise<void>;
  readonly onEvent?: ((event: SweepEvent) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Seconds since some moment; replaced in tests. */
  readonly clock?: () => number;
}

export interface SweepEvent {
  readonly kind: "task" | "trial" | "final";
  readonly task: Task;
  /** Of `tasks`, from 0. */
  readonly number: number;
  readonly trials: number;
  /** At most so many will be made. */
  readonly budget: number;
  readonly record: JournalRecord;
  readonly best: Incumbent | undefined;
  readonly standard: number | undefined;
  /** Of this task, if its trials go on as they did; undefined before there is one. */
  readonly secondsLeft: number | undefined;
}

/** Asked of a strategy before it hears the first answer: a number of its own, so that results do not depend on how many machines there are. */
const OUTSTANDING = 4;
/** Spaces up to this size are measured whole. */
const SMALL = 32;
/** Tried before the strategy is asked, where a prediction says what is promising. */
const PREDICTED = 4;
/** Variants that run against the default at the end. */
const FINALISTS = 3;

export async function runSweep(options: SweepOptions): Promise<void> {
  const { tasks, found, parallel = 1, signal } = options;
  const known = new Known(found);
  const clock = options.clock ?? (() => performance.now() / 1000);
  const start = clock();
  const elapsed = (): number => known.elapsed + clock() - start;
  const waiting = [...tasks.entries()];
  const work = async (): Promise<void> => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      signal?.throwIfAborted();
      const [number, task] = next;
      // What a task leaves goes to those behind it.
      const now = elapsed();
      if (options.seconds !== undefined && now >= options.seconds) return;
      const deadline =
        options.seconds === undefined ? Number.POSITIVE_INFINITY : now + (parallel * (options.seconds - now)) / (waiting.length + parallel);
      await new TaskSweep(options, known, task, number, elapsed, deadline).run();
    }
  };
  await Promise.all(Array.from({ length: Math.min(parallel, tasks.length) }, work));
}

/** A number of 32 bits for some text: seeds of strategies and inputs. */
export function seedOf(...parts: readonly (string | number)[]): number {
  return Number.parseInt(sha256(parts.join("\0")).slice(0, 8), 16);
}

class TaskSweep {
  readonly #space: Space;
  readonly #standard: Configuration;
  readonly #budget: number;
  #best: Incumbent | undefined;
  #standardSeconds: number | undefined;
  #trials = 0;
  /** Trials of this run, and when the first began. */
  #measured = 0;
  readonly #start: number;
  readonly #writes: Promise<void>[] = [];
  #failure: { readonly error: unknown } | undefined;
  readonly #ok: Incumbent[] = [];

  constructor(
    private readonly options: SweepOptions,
    private readonly known: Known,
    private readonly task: Task,
    private readonly number: number,
    private readonly elapsed: () => number,
    private readonly deadline: number,
  ) {
    this.#start = elapsed();
    this.#space = taskSpace(task, options.arch);
    this.#standard = defaultVariant(task);
    this.#budget = Math.min(this.#space.size, options.trials);
  }

  async run(): Promise<void> {
    if (!this.known.hasTask(this.task.key)) this.#write(taskRecord(this.task, this.#space, this.options), "task");
    const first = await this.#trial(this.#standard);
    this.#take(this.#standard, first);
    this.#standardSeconds = first.seconds;
    await this.#search(first);
    await this.#final();
    await Promise.all(this.#writes);
  }

  async #search(first: Measured): Promise<void> {
    const { strategy, seed } = this.options;
    const { key } = this.task;
    const def = this.#space.size <= SMALL ? randomStrategy : strategy;
    const search = def.start(this.#space, new Random(seedOf(seed, key)));
    const standard = indexOf(this.#space, this.#standard) ?? bugIndex();
    search.tell(standard, costOf(first));
    const count = Math.min(PREDICTED, Math.floor(this.#budget / 3));
    const predicted = predictSpace(this.task, this.#space, this.#standard, this.options.arch, count, seedOf(seed, key, "predicted"));
    const tried = new Set([standard]);
    // Another kernel is first tried as it is without a measurement.
    const others = kernelDefaults(this.task, this.options.arch).flatMap((variant) => indexOf(this.#space, variant) ?? []);
    const promising = [...others, ...predicted.first].filter((index) => index !== standard);
    const next = (): number | undefined => {
      for (let index = promising.shift() ?? search.ask(); index !== undefined; index = search.ask()) {
        if (tried.has(index)) continue;
        tried.add(index);
        if (!predicted.hopeless(index)) return index;
        search.tell(index, Number.NaN);
      }
      return undefined;
    };
    const outstanding: { readonly index: number; readonly result: Promise<Measured> }[] = [];
    let asked = 1;
    const ask = (): boolean => {
      if (asked >= this.#budget || this.elapsed() >= this.deadline || this.options.signal?.aborted) return false;
      const index = next();
      if (index === undefined) return false;
      asked++;
      const result = this.#trial(variantAt(this.task, this.#space, index));
      // It is awaited in turn; a failure of the backend must not be unheard until then.
      result.catch(() => undefined);
      outstanding.push({ index, result });
      return true;
    };
    while (outstanding.length < OUTSTANDING && ask());
    for (let oldest = outstanding.shift(); oldest; oldest = outstanding.shift()) {
      const measured = await oldest.result;
      this.#take(variantAt(this.task, this.#space, oldest.index), measured);
      search.tell(oldest.index, costOf(measured));
      if (this.#failure) throw this.#failure.error;
      ask();
    }
    this.options.signal?.throwIfAborted();
  }

  /** From the journal if it has it, else measured and written there. */
  async #trial(variant: Configuration): Promise<Measured> {
    const { backend, seed } = this.options;
    const { task } = this;
    const recorded = this.known.trial(task.key, variant);
    if (recorded) {
      this.#trials++;
      return recorded;
    }
    const inputs = seedOf(seed, task.key, variantKey(variant));
    const measured = await backend.trial({ task, variant, seed: inputs, incumbent: () => this.#best });
    this.#trials++;
    this.#measured++;
    this.#write(
      { kind: "trial", task: task.key, variant: { ...variant }, ...measured, elapsed: round(this.elapsed()), at: Date.now() },
      "trial",
    );
    return measured;
  }

  #take(variant: Configuration, { status, seconds }: Measured): void {
    if (status !== "ok" || seconds === undefined) return;
    const entry = { variant, seconds };
    this.#ok.push(entry);
    if (!this.#best || isBetter(entry, this.#best)) this.#best = entry;
  }

  /** A default that fails is never measured against; its task has no row. */
  async #final(): Promise<void> {
    if (this.#standardSeconds === undefined) return;
    const standardKey = variantKey(this.#standard);
    const others = this.#ok.filter(({ variant }) => variantKey(variant) !== standardKey);
    others.sort((a, b) => (isBetter(a, b) ? -1 : 1));
    const promising = others.filter(({ seconds }) => seconds < (this.#standardSeconds as number)).slice(0, FINALISTS);
    const variants = [this.#standard, ...promising.map(({ variant }) => variant)];
    const recorded = this.known.final(this.task.key, variants);
    if (recorded) return;
    const seed = seedOf(this.options.seed, this.task.key, "final");
    const finalists = await this.options.backend.final({ task: this.task, variants, seed });
    const record: FinalRecord = { kind: "final", task: this.task.key, variants: finalists, elapsed: round(this.elapsed()) };
    this.#write(record, "final");
  }

  #secondsLeft(): number | undefined {
    if (this.#measured === 0) return undefined;
    const now = this.elapsed();
    return Math.max(0, Math.min(this.deadline - now, ((now - this.#start) / this.#measured) * (this.#budget - this.#trials)));
  }

  #write(record: JournalRecord, kind: SweepEvent["kind"]): void {
    const { append, onEvent } = this.options;
    const event = {
      kind,
      task: this.task,
      number: this.number,
      trials: this.#trials,
      budget: this.#budget,
      record,
      standard: this.#standardSeconds,
      secondsLeft: this.#secondsLeft(),
    };
    const write = append(record).then(() => onEvent?.({ ...event, best: this.#best }));
    // A disk that is full ends the sweep at its next step, not after the whole search.
    write.catch((error: unknown) => {
      this.#failure ??= { error };
    });
    this.#writes.push(write);
  }
}

function bugIndex(): never {
  throw bug("a space without its default");
}

function costOf({ status, seconds }: Measured): number {
  return status === "ok" && seconds !== undefined ? seconds : Number.NaN;
}

/** Equal times are told apart by name, not by which came first. */
function isBetter(a: Incumbent, b: Incumbent): boolean {
  return a.seconds < b.seconds || (a.seconds === b.seconds && variantKey(a.variant) < variantKey(b.variant));
}

function round(seconds: number): number {
  return Math.round(seconds * 1000) / 1000;
}

function taskRecord(task: Task, space: Space, { device, limits }: SweepOptions): TaskRecord {
  const { key, op, kernel, problem, layouts, rows } = task;
  return {
    kind: "task",
    task: key,
    op,
    kernel: kernel.name,
    problem,
    layouts,
    rows,
    device,
    space: { parameters: space.parameters.map(({ name, values }) => ({ name, values })), size: space.size },
    default: defaultVariant(task),
    cost: kernel.cost(paramsOf(task, defaultVariant(task)), rows),
    ...(task.launches ? { launches: task.launches } : {}),
    ...(limits ? { limits } : {}),
  };
}
