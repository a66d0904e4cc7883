/**
 * Measures on this machine. Each variant is compiled by itself; a process (harness.ts) then runs it against the reference and in turns with the incumbent.
 * Compilers run ahead on cores that measuring leaves free; where it takes them all, the two take turns. How variants are compiled and run is the
 * platform's: local-cpu.ts, local-cuda.ts.
 */

import { freemem } from "node:os";
import { Diagnostic } from "../diagnostics.js";
import type { Backend, FinalRequest, TrialRequest } from "./backend.js";
import { findDifference, findError, type Outputs, type Trial } from "./check.js";
import { type Harness, HarnessEnd } from "./harness.js";
import { fromBytes, INPUT_EXPONENT, inputNumbers, isMade, toBytes, weightExponent } from "./numbers.js";
import { elementBytes, elementsOf, type Operand, PROBLEMS, packedElements } from "./problems.js";
import type { Finalist, Machine, Measured } from "./records.js";
import type { Configuration } from "./space.js";
import { kernelOf, paramsOf, type Task, variantKey } from "./task.js";
import { type Run, timeFinal, timeTrial } from "./timing.js";
import { Turns } from "./turns.js";

/** A variant that is compiled. */
export interface Built {
  readonly variant: Configuration;
  /** Its library or cubin. */
  readonly path: string;
}

export interface Platform {
  readonly machine: Machine;
  /** Where what is compiled lies. */
  readonly place: string;
  readonly signal?: AbortSignal | undefined;
  /** Compilers that may run during a measurement. */
  readonly beside: number;
  /** Bytes that weights may take. */
  readonly memory: () => number;
  /** Equal texts are one variant. */
  source(task: Task, variant: Configuration): string;
  compile(source: string, task: Task, variant: Configuration): Promise<string>;
  /** What an error of a compiler says of the variant; undefined where it is not the variant's fault. */
  blame(error: Diagnostic): Measured | undefined;
  /** A process that has these variants. */
  start(task: Task, lines: readonly string[], built: readonly Built[]): Promise<Harness>;
  /** Lets go of the device until the next start. */
  pause?(): Promise<void>;
  /** It was used; `failed`: by a variant that may have spoilt it. */
  release(harness: Harness, failed: boolean): Promise<void>;
  close(): Promise<void>;
}

export class LocalBackend implements Backend {
  readonly #built = new Map<string, Promise<string>>();
  readonly #turns: Turns;

  /** `turns`: with others that use the machine. */
  constructor(
    private readonly platform: Platform,
    turns?: Turns,
  ) {
    this.#turns = turns ?? new Turns(platform.beside);
  }

  async pause(): Promise<void> {
    await this.platform.pause?.();
  }

  async trial({ task, variant, incumbent, seed }: TrialRequest): Promise<Measured> {
    const built = await this.#build(task, variant).catch((error: unknown) => this.#notCompiled(error));
    if (!("path" in built)) return built;
    const against = incumbent();
    const other = against && variantKey(against.variant) !== variantKey(variant) ? against : undefined;
    // Compiled before it is this one's turn: no compiler may start then.
    const all = [built, ...(other ? [await this.#build(task, other.variant)] : [])];
    return this.#turns.measure(() => this.#measured(task, all, seed, (run) => timeTrial(run, other)));
  }

  /** The variant's fault, or the machine's: then the sweep ends, and the variant is not blamed. */
  async #notCompiled(error: unknown): Promise<Measured> {
    // Ctrl-C goes to compilers too, and they may be quicker to die of it than we are to hear of it.
    await new Promise((resolve) => setTimeout(resolve, 50));
    this.platform.signal?.throwIfAborted();
    const blamed = error instanceof Diagnostic ? this.platform.blame(error) : undefined;
    if (!blamed) throw error;
    if (!/no space left/i.test(blamed.reason ?? ""))
      return { ...blamed, ...(blamed.reason ? { reason: blamed.reason.slice(0, 2000) } : {}) };
    throw new Diagnostic({
      code: "disk-full",
      kind: "environment",
      message: "no space is left on the disk for compiled variants",
      place: this.platform.place,
      hint: "free space there, then run again with --resume; `ernie-compile cache prune` helps",
      cause: error,
    });
  }

  /** One that fails beside the others is left out. */
  async final(request: FinalRequest): Promise<readonly Finalist[]> {
    const found = await this.#final(request);
    if (typeof found !== "string") return found;
    const [standard, ...others] = request.variants as readonly [Configuration, ...Configuration[]];
    const alone = await this.#final({ ...request, variants: [standard] });
    if (typeof alone === "string")
      throw new Diagnostic({
        code: "tune-default-failed",
        kind: "environment",
        message: `the default variant was measured before and now fails: ${alone}`,
        place: request.task.key,
        hint: "run again with --resume",
      });
    const kept: Configuration[] = [standard];
    for (const variant of others) {
      const pair = await this.#final({ ...request, variants: [standard, variant] });
      if (typeof pair !== "string") kept.push(variant);
    }
    const rest = kept.length > 1 && kept.length < request.variants.length ? await this.#final({ ...request, variants: kept }) : alone;
    return typeof rest === "string" ? alone : rest;
  }

  /** Or why they could not be timed together. */
  async #final({ task, variants, seed }: FinalRequest): Promise<readonly Finalist[] | string> {
    const built = await Promise.all(variants.map((variant) => this.#build(task, variant)));
    return this.#turns.measure(async () => {
      let finalists: readonly Finalist[] = [];
      const { status, reason } = await this.#measured(task, built, seed, async (run) => {
        finalists = await timeFinal(run, variants);
        return { status: "ok" };
      });
      return status === "ok" ? finalists : (reason ?? status);
    });
  }

  async close(): Promise<void> {
    await Promise.allSettled([...this.#built.values()]);
    await this.platform.close();
  }

  async #build(task: Task, variant: Configuration): Promise<Built> {
    const source = this.platform.source(task, variant);
    let path = this.#built.get(source);
    if (!path) {
      path = this.#turns.compile(() => this.platform.compile(source, task, variant));
      path.catch(() => undefined);
      this.#built.set(source, path);
    }
    return { variant, path: await path };
  }

  /** Has a process take these variants, checks all of them on the same fresh numbers, and has them timed. */
  async #measured(task: Task, built: readonly Built[], seed: number, timed: (run: Run) => Promise<Measured>): Promise<Measured> {
    const operands = PROBLEMS[task.op].operands(paramsOf(task, {}), task.rows);
    const described = describe(task, operands, built, this.platform);
    if (typeof described === "string") return { status: "error", reason: described };
    let harness: Harness | undefined;
    let failed = true;
    try {
      harness = await this.platform.start(task, described, built);
      const inputs = inputNumbers(task, operands, seed);
      const trial: Trial = { task, operands, seed, inputs };
      const bytes = Buffer.concat(argOrder(task, operands).map((operand) => inputBytes(operand, inputs)));
      const right: { readonly variant: Configuration; readonly out: Buffer }[] = [];
      for (const [i, { variant }] of built.entries()) {
        const out = await harness.check(i, seed, bytes);
        const outputs = (): Outputs => readOutputs(task, operands, out);
        const [first] = right;
        // Where the larger of two close values is chosen, right variants may differ by more than their sums do.
        const chooses = operands.some(({ role, dtype }) => role === "output" && dtype === "i32");
        const error = !first
          ? findError(trial, outputs())
          : sumsAlike(task, first.variant, variant)
            ? sameBits(first.out, out)
            : chooses
              ? findError(trial, outputs())
              : findDifference(trial, readOutputs(task, operands, first.out), outputs());
        if (error) return { status: "wrong", reason: error };
        right.push({ variant, out });
      }
      const measured = await timed({ harness, count: built.length });
      failed = false;
      return measured;
    } catch (error) {
      if (error instanceof HarnessEnd) return { status: error.status, reason: error.message };
      throw error;
    } finally {
      if (harness) await this.platform.release(harness, failed);
    }
  }
}

/** Lines of a spec about the step and the kernel's arguments; or why it cannot be run here. */
function describe(
  task: Task,
  operands: readonly Operand[],
  built: readonly Built[],
  { machine, memory }: Platform,
): readonly string[] | string {
  const { kernel, rows, layouts } = task;
  const params = paramsOf(task, {});
  const packed = (operand: Operand): number => packedElements(operand.shape, layouts[operand.name] ?? "row") * elementBytes(operand.dtype);
  const weights = operands.filter(({ role }) => role === "weight").reduce((sum, operand) => sum + packed(operand), 0);
  // So many copies that a weight has left every cache when its turn comes again. What a launch does not touch, as of experts, does not count.
  const touched = Math.min(weights, Math.max(1, kernel.cost(params, rows).bytes));
  const slots = Math.max(2, Math.ceil((2 * machine.cacheBytes) / touched) + 1);
  const most = Math.floor(memory() / Math.max(1, weights));
  if (most < 1) return `weights of ${weights} bytes do not fit into memory`;
  return [
    `step ${rows} ${rows}`,
    `slots ${Math.min(slots, most)}`,
    ...argNames(task, built).map((name) => {
      const operand = operands.find((entry) => entry.name === name);
      if (!operand) return scratchOf(task, name, built);
      const bytes = elementsOf(operand.shape) * elementBytes(operand.dtype);
      const stream = operands.indexOf(operand);
      if (isMade(task, operand)) return `input ${stream} ${operand.dtype} 1 ${operand.shape.join(" ")} ${INPUT_EXPONENT} row`;
      if (operand.role !== "weight") return `${operand.role === "input" ? "data" : "output"} ${bytes}`;
      const [slabs, n, k] = operand.shape;
      return `weight ${stream} ${operand.dtype} ${slabs} ${n} ${k} ${weightExponent(operand)} ${layouts[name] ?? "row"}`;
    }),
  ];
}

/** As much as any of the variants wants. */
function scratchOf(task: Task, name: string, built: readonly Built[]): string {
  const wanted = built.map(({ variant }) => {
    const kernel = kernelOf(task, variant);
    const params = paramsOf(task, variant);
    if (name === "counters") return 4 * (kernel.launch?.(params, "").counters ?? 0);
    return (name === "workspace" ? kernel.workspace?.(params, task.rows) : kernel.parts?.(params, task.rows)[name]) ?? 0;
  });
  return `${name === "counters" ? "counters" : "scratch"} ${Math.max(64, ...wanted)}`;
}

/** What this process may take of the machine's memory. */
export function hostMemory(): number {
  return freemem() * 0.6;
}

/** Arguments of all variants' kernels in the order of a spec, the task's own first: kernels of one op may want other scratch. */
export function argNames(task: Task, built: readonly Built[]): readonly string[] {
  const kernels = [task.kernel, ...built.map(({ variant }) => kernelOf(task, variant))];
  return [...new Set(kernels.flatMap((kernel) => kernel.args(paramsOf(task, {})).map(({ name }) => name)))];
}

/** Operands in the order of the kernel's arguments. */
function argOrder(task: Task, operands: readonly Operand[]): readonly Operand[] {
  const names = argNames(task, []);
  return [...operands].sort((a, b) => names.indexOf(a.name) - names.indexOf(b.name));
}

function inputBytes(operand: Operand, inputs: Trial["inputs"]): Uint8Array {
  const data = inputs.get(operand.name);
  return data ? toBytes(data, operand.dtype) : new Uint8Array();
}

function readOutputs(task: Task, operands: readonly Operand[], bytes: Buffer): Outputs {
  const outputs = new Map<string, Float32Array | Int32Array>();
  let at = 0;
  for (const { name, role, dtype, shape } of argOrder(task, operands)) {
    if (role !== "output") continue;
    const size = elementsOf(shape) * elementBytes(dtype);
    outputs.set(name, fromBytes(bytes.subarray(at, at + size), dtype));
    at += size;
  }
  return outputs;
}

/** Whether two variants make their sums in one order: of one kernel, alike in all that changes it. */
export function sumsAlike(task: Task, a: Configuration, b: Configuration): boolean {
  const kernel = kernelOf(task, a);
  return kernel === kernelOf(task, b) && (kernel.tunables ?? []).every(({ name, reorders }) => !reorders || a[name] === b[name]);
}

/** Then every bit of a result is the same. */
function sameBits(a: Buffer, b: Buffer): string | undefined {
  return a.equals(b) ? undefined : "differs in bits from another variant, whose sums are made in the same order";
}
