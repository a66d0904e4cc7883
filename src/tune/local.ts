/**
 * Measures on this machine's CPU. Each variant is compiled to a library of its own; a process (harness.ts) then runs it against the reference and in
 * turns with the incumbent. Compilers run ahead on cores that measuring leaves free; where it takes them all, the two take turns.
 */

import { availableParallelism, freemem } from "node:os";
import { join } from "node:path";
import { Diagnostic } from "../diagnostics.js";
import type { CpuArch } from "../toolchain/arch.js";
import type { NativeOptions } from "../toolchain/native.js";
import { makeFolder } from "../weights/file.js";
import type { Backend, FinalRequest, TrialRequest } from "./backend.js";
import { findError, type Outputs, type Trial } from "./check.js";
import { Harness, HarnessEnd, type Spec } from "./harness.js";
import { fromBytes, inputNumbers, toBytes, weightExponent } from "./numbers.js";
import { elementBytes, elementsOf, type Operand, PROBLEMS, packedElements } from "./problems.js";
import type { Finalist, Machine, Measured } from "./records.js";
import type { Configuration } from "./space.js";
import { paramsOf, type Task, variantKey } from "./task.js";
import { type Run, timeFinal, timeTrial } from "./timing.js";
import { Turns } from "./turns.js";
import { buildHarness, compileVariant, type RenderVariant, renderVariant } from "./variants.js";

export interface LocalOptions {
  readonly arch: CpuArch;
  readonly machine: Machine;
  readonly native: NativeOptions;
  /** Of one command to a process: more than the slowest variant takes. */
  readonly deadlineMs?: number;
  readonly render?: RenderVariant;
}

const DEADLINE_MS = 60_000;

export async function openLocal(options: LocalOptions): Promise<Backend> {
  await makeFolder(options.native.cache.root);
  return new LocalBackend(options, await buildHarness(options.native));
}

class LocalBackend implements Backend {
  readonly #turns: Turns;
  readonly #libraries = new Map<string, Promise<string>>();

  constructor(
    private readonly options: LocalOptions,
    private readonly harness: string,
  ) {
    this.#turns = new Turns(Math.max(0, availableParallelism() - options.machine.threads));
  }

  async trial({ task, variant, incumbent, seed }: TrialRequest): Promise<Measured> {
    const library = await this.#library(task, variant).catch((error: unknown) => this.#notCompiled(error));
    if (typeof library !== "string") return library;
    const against = incumbent();
    const other = against && variantKey(against.variant) !== variantKey(variant) ? against : undefined;
    // Compiled before it is this one's turn: no compiler may start then.
    const libraries = [library, ...(other ? [await this.#library(task, other.variant)] : [])];
    return this.#turns.measure(() => this.#measured(task, libraries, seed, (run) => timeTrial(run, other)));
  }

  /** The variant's fault, or the machine's: then the sweep ends, and the variant is not blamed. */
  async #notCompiled(error: unknown): Promise<Measured> {
    // Ctrl-C goes to compilers too, and they may be quicker to die of it than we are to hear of it.
    await new Promise((resolve) => setTimeout(resolve, 50));
    this.options.native.signal?.throwIfAborted();
    if (!(error instanceof Diagnostic) || error.code !== "cxx-failed") throw error;
    if (!/no space left/i.test(error.summary)) return { status: "compile", reason: error.summary.slice(0, 2000) };
    throw new Diagnostic({
      code: "disk-full",
      kind: "environment",
      message: "no space is left on the disk for compiled variants",
      place: this.options.native.cache.root,
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
    const libraries = await Promise.all(variants.map((variant) => this.#library(task, variant)));
    return this.#turns.measure(async () => {
      let finalists: readonly Finalist[] = [];
      const { status, reason } = await this.#measured(task, libraries, seed, async (run) => {
        finalists = await timeFinal(run, variants);
        return { status: "ok" };
      });
      return status === "ok" ? finalists : (reason ?? status);
    });
  }

  async close(): Promise<void> {
    await Promise.allSettled([...this.#libraries.values()]);
  }

  #library(task: Task, variant: Configuration): Promise<string> {
    const source = (this.options.render ?? renderVariant)(task, variant);
    let library = this.#libraries.get(source);
    if (!library) {
      const { arch, native } = this.options;
      library = this.#turns.compile(() => compileVariant(source, arch, native));
      library.catch(() => undefined);
      this.#libraries.set(source, library);
    }
    return library;
  }

  /** Starts a process with these variants, checks all of them on the same fresh numbers, and has them timed. */
  async #measured(task: Task, libraries: readonly string[], seed: number, timed: (run: Run) => Promise<Measured>): Promise<Measured> {
    const operands = PROBLEMS[task.op].operands(task.problem, task.rows);
    const spec = this.#spec(task, operands, libraries);
    if (typeof spec === "string") return { status: "error", reason: spec };
    let harness: Harness | undefined;
    try {
      harness = await Harness.start(this.harness, spec, this.options.deadlineMs ?? DEADLINE_MS);
      const inputs = inputNumbers(task, operands, seed);
      const trial: Trial = { task, operands, seed, inputs };
      const bytes = Buffer.concat(argOrder(task, operands).map((operand) => inputBytes(operand, inputs)));
      let first: Buffer | undefined;
      for (const i of libraries.keys()) {
        const out = await harness.check(i, seed, bytes);
        const error = first ? sameBits(first, out) : findError(trial, readOutputs(task, operands, out));
        if (error) return { status: "wrong", reason: error };
        first ??= out;
      }
      return await timed({ harness, count: libraries.length });
    } catch (error) {
      if (error instanceof HarnessEnd) return { status: error.status, reason: error.message };
      throw error;
    } finally {
      await harness?.end();
    }
  }

  /** Or why it cannot be run here. */
  #spec(task: Task, operands: readonly Operand[], variants: readonly string[]): Spec | string {
    const { kernel, rows, layouts } = task;
    const { machine, native } = this.options;
    const params = paramsOf(task, {});
    const packed = (operand: Operand): number =>
      packedElements(operand.shape, layouts[operand.name] ?? "row") * elementBytes(operand.dtype);
    const weights = operands.filter(({ role }) => role === "weight").reduce((sum, operand) => sum + packed(operand), 0);
    // So many copies that a weight has left every cache when its turn comes again. What a launch does not touch, as of experts, does not count.
    const touched = Math.min(weights, Math.max(1, kernel.cost(params, rows).bytes));
    const slots = Math.max(2, Math.ceil((2 * machine.cacheBytes) / touched) + 1);
    const most = Math.floor((freemem() * 0.6) / Math.max(1, weights));
    if (most < 1) return `weights of ${weights} bytes do not fit into memory`;
    const lines = [
      `lock ${join(native.cache.root, "device.lock")}`,
      `threads ${machine.threads}`,
      `step ${rows} ${rows}`,
      `slots ${Math.min(slots, most)}`,
      ...kernel.args(params).map(({ name }) => {
        const operand = operands.find((entry) => entry.name === name);
        if (!operand) return `scratch ${Math.max(64, kernel.workspace?.(params, rows) ?? 64)}`;
        const bytes = elementsOf(operand.shape) * elementBytes(operand.dtype);
        if (operand.role !== "weight") return `${operand.role === "input" ? "data" : "output"} ${bytes}`;
        const [slabs, n, k] = operand.shape;
        const stream = operands.indexOf(operand);
        return `weight ${stream} ${operand.dtype} ${slabs} ${n} ${k} ${weightExponent(operand)} ${layouts[name] ?? "row"}`;
      }),
    ];
    return { lines, variants };
  }
}

/** Operands in the order of the kernel's arguments. */
function argOrder(task: Task, operands: readonly Operand[]): readonly Operand[] {
  const names = task.kernel.args(paramsOf(task, {})).map(({ name }) => name);
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

/** Variants of one kernel have one order of sums, so every bit of a result is the same. */
function sameBits(a: Buffer, b: Buffer): string | undefined {
  return a.equals(b) ? undefined : "differs in bits from another variant, whose sums are made in the same order";
}
