/**
 * Whether a variant computed what its op means. The reference is slow, so it runs on a part of the problem: a few rows, all or some of the weight's
 * rows, only the experts that those rows chose. All ops here treat rows alike, which is what allows that. The rest of the result must at least have
 * been written, and be no NaN: it was poisoned with NaNs before.
 */

import { bug } from "../diagnostics.js";
import { numberParam } from "../kernels/kernel-def.js";
import { isStepOp } from "../kernels/steps.js";
import { applyOp } from "../reference/ops.js";
import { type RefTensor, refTensor, zeros } from "../reference/tensor.js";
import { INPUT_EXPONENT, type InputData, weightExponent, weightFiller, weightNumbers } from "./numbers.js";
import type { KernelOp, Operand } from "./problems.js";
import { Random } from "./random.js";
import type { Task } from "./task.js";

/** Of numbers that are f32, and of those rounded to bf16: normalised mean square errors. */
const LIMITS = { f32: 1e-10, bf16: 1e-5, normed: 2e-5 } as const;
type Rounding = keyof typeof LIMITS;
/** Probabilities of two experts may be this close for either to be chosen. */
const TIE = 1e-6;
const ROWS = 3;
/** Of a weight, for each result. */
const COLUMNS = 96;

export interface Trial {
  readonly task: Task;
  readonly operands: readonly Operand[];
  readonly seed: number;
  readonly inputs: ReadonlyMap<string, InputData>;
}

export type Outputs = ReadonlyMap<string, Float32Array | Int32Array>;

/** Why the outputs are wrong, or undefined. */
export function findError(trial: Trial, outputs: Outputs): string | undefined {
  for (const { name, role } of trial.operands) {
    if (role !== "output") continue;
    const values = outputs.get(name) as Float32Array | Int32Array;
    const at = firstNaN(values);
    if (at >= 0) return `${name}[${at}] is NaN, or was not written`;
  }
  const sample = new Sample(trial);
  return CHECKS[sample.op](sample, outputs);
}

/**
 * Why the outputs differ by more than two right ones may, or undefined: all of them, where `findError` sees a part. Nothing is said of ids: where values
 * are close either may be right.
 */
export function findDifference(trial: Trial, a: Outputs, b: Outputs): string | undefined {
  const sample = new Sample(trial);
  for (const { name, role, dtype } of trial.operands) {
    if (role !== "output" || dtype === "i32") continue;
    const [x, y] = [a.get(name) as Float32Array, b.get(name) as Float32Array];
    let error = 0;
    let power = 0;
    for (let i = 0; i < x.length; i++) {
      error += ((x[i] as number) - (y[i] as number)) ** 2;
      power += (x[i] as number) ** 2;
    }
    // Both are within the limit of what is right, so they are within four times of it of each other.
    const limit = 4 * sample.limit(name);
    const nmse = error / power;
    if (!(nmse <= limit)) return `${name} differs by ${nmse.toExponential(1)} from another variant's, expected at most ${limit}`;
  }
  return undefined;
}

/** Of millions of values: `findIndex` takes ten times as long. */
function firstNaN(values: Float32Array | Int32Array): number {
  for (let i = 0; i < values.length; i++) if (values[i] !== values[i]) return i;
  return -1;
}

/** A part of a task: some rows of its inputs, some rows of its weights. */
class Sample {
  readonly rows: readonly number[];
  readonly #random: Random;

  constructor(readonly trial: Trial) {
    this.#random = new Random(trial.seed ^ 0x5a3c);
    this.rows = this.pick(trial.task.rows, isHeavy(trial) ? 1 : ROWS);
  }

  get op(): KernelOp {
    const { op } = this.trial.task;
    if (isStepOp(op)) throw bug(`${op} has no outputs of its own`);
    return op;
  }

  get params() {
    return this.trial.task.problem;
  }

  size(name: string): number {
    return numberParam(this.params, name);
  }

  /** Some of [0, count), the first and the last among them, ascending. */
  pick(count: number, most: number): readonly number[] {
    if (count <= most) return Array.from({ length: count }, (_, i) => i);
    if (most === 1) return [this.#random.below(count)];
    const picked = new Set([0, count - 1]);
    while (picked.size < most) picked.add(this.#random.below(count));
    return [...picked].sort((a, b) => a - b);
  }

  operand(name: string): Operand | undefined {
    return this.trial.operands.find((operand) => operand.name === name);
  }

  /** The picked rows of an input, all columns or some. */
  input(name: string, columns?: readonly number[]): RefTensor {
    const operand = this.operand(name) as Operand;
    const width = operand.shape[1] as number;
    const data = this.trial.inputs.get(name);
    const made = weightNumbers(this.trial.seed, this.trial.operands.indexOf(operand), INPUT_EXPONENT, operand.dtype);
    const values = this.rows.flatMap((row) =>
      (columns ?? range(0, width)).map((column) => (data ? (data[row * width + column] as number) : made(row * width + column))),
    );
    return refTensor(operand.dtype, [this.rows.length, columns?.length ?? width], values);
  }

  /** Rows `picked` of slabs `slabs` of a weight; a matrix where slabs are not named. */
  weight(name: string, picked: readonly number[], slabs?: readonly number[]): RefTensor {
    const operand = this.operand(name) as Operand;
    const [, n = 1, k = 1] = operand.shape;
    const stream = this.trial.operands.indexOf(operand);
    const fill = weightFiller(this.trial.seed, stream, weightExponent(operand), operand.dtype);
    const tensor = zeros(operand.dtype, slabs ? [slabs.length, picked.length, k] : [picked.length, k]);
    let at = 0;
    for (const slab of slabs ?? [0]) {
      for (const row of picked) {
        fill(tensor.data as Float32Array, at, (slab * n + row) * k, k);
        at += k;
      }
    }
    return tensor;
  }

  /** A bias, or nothing. */
  vector(name: string, picked: readonly number[]): RefTensor | undefined {
    const operand = this.operand(name);
    if (!operand) return undefined;
    const number = weightNumbers(this.trial.seed, this.trial.operands.indexOf(operand), weightExponent(operand), operand.dtype);
    return refTensor("f32", [picked.length], picked.map(number));
  }

  run(op: KernelOp, operands: { readonly [name: string]: RefTensor | undefined }, attrs: object): readonly RefTensor[] {
    const given = Object.fromEntries(Object.entries(operands).filter((entry): entry is [string, RefTensor] => entry[1] !== undefined));
    const environment = { weights: noWeights, blockSize: 1 };
    return applyOp(op, given, attrs, environment, []) as readonly RefTensor[];
  }

  /**
   * Of an f32 sum. A tensor core of a GPU cuts off what it adds 16 products to instead of rounding it, so errors of one long chain of sums point one way:
   * up to 2^-24 of the sum a step.
   */
  #sumLimit(): number {
    const { problem, kernel } = this.trial.task;
    const steps = kernel.target === "cuda" && typeof problem.k === "number" ? problem.k / 16 : 0;
    return Math.max(LIMITS.f32, (steps * 2 ** -24) ** 2);
  }

  /** What a norm in front reads; its place in a product's attributes. */
  norm(): { readonly operands: { readonly norm: RefTensor | undefined }; readonly attrs: object } {
    const norm = this.params.norm === true ? this.vector("norm", range(0, this.size("k"))) : undefined;
    // A kernel rounds x times the norm's weight and scales afterwards, or rounds what is scaled. The reference rounds neither, so one limit holds for both.
    return norm ? { operands: { norm }, attrs: { eps: this.params.eps, norm_dtype: "f32" } } : { operands: { norm }, attrs: {} };
  }

  limit(name: string): number {
    const { op, problem } = this.trial.task;
    // Hidden rows of experts are rounded to x's type before the second product.
    const rounding: Rounding =
      problem.norm === true ? "normed" : op === "moe_ffn" && name === "out" && problem.x === "bf16" ? "bf16" : "f32";
    return Math.max(this.operand(name)?.dtype === "bf16" ? LIMITS.bf16 : this.#sumLimit(), LIMITS[rounding]);
  }

  /** Elements (picked row, picked column) of an output, compared with what the reference says. */
  compare(name: string, outputs: Outputs, columns: readonly number[], expected: RefTensor): string | undefined {
    const { shape } = this.operand(name) as Operand;
    const width = shape[1] as number;
    const data = outputs.get(name) as Float32Array;
    let error = 0;
    let power = 0;
    let at = 0;
    for (const row of this.rows) {
      for (const column of columns) {
        const wanted = expected.data[at++] as number;
        error += ((data[row * width + column] as number) - wanted) ** 2;
        power += wanted ** 2;
      }
    }
    const nmse = error / power;
    const limit = this.limit(name);
    return nmse <= limit ? undefined : `${name} has an error of ${nmse.toExponential(1)}, expected at most ${limit}`;
  }
}

/** Each row reads the weights of its own experts, which the reference holds as f32: of large models one row's are half a gigabyte. */
function isHeavy({ task: { op, problem } }: Trial): boolean {
  if (op !== "moe_ffn") return false;
  return 3 * numberParam(problem, "chosen") * numberParam(problem, "hidden") * numberParam(problem, "m") > 2 ** 25;
}

function noWeights(): never {
  throw new Error("a tuning problem has no checkpoint");
}

const CHECKS: { readonly [K in KernelOp]: (sample: Sample, outputs: Outputs) => string | undefined } = {
  linear: checkProduct,
  projection: checkProduct,

  linear_swiglu: (sample, outputs) => {
    const group = sample.size("group");
    const turns = sample.pick(sample.size("n") / (2 * group), Math.max(2, Math.ceil(COLUMNS / group)));
    const rows = turns.flatMap((turn) => range(turn * 2 * group, 2 * group));
    const { operands: normed, attrs } = sample.norm();
    const operands = { x: sample.input("x"), weight: sample.weight("weight", rows), bias: sample.vector("bias", rows), ...normed };
    const [out] = sample.run("linear_swiglu", operands, { group, dtype: sample.params.out, ...attrs });
    return sample.compare(
      "out",
      outputs,
      turns.flatMap((turn) => range(turn * group, group)),
      out as RefTensor,
    );
  },

  head_argmax: (sample, outputs) => {
    const n = sample.size("n");
    const columns = sample.pick(n, COLUMNS);
    const { operands: normed, attrs } = sample.norm();
    const operands = { x: sample.input("x"), weight: sample.weight("weight", columns), bias: sample.vector("bias", columns), ...normed };
    const [logits] = sample.run("head_argmax", operands, attrs);
    const error = sample.compare("logits", outputs, columns, logits as RefTensor);
    if (error) return error;
    const found = outputs.get("logits") as Float32Array;
    for (const [row, id] of (outputs.get("ids") as Int32Array).entries()) {
      const best = argmax(found.subarray(row * n, (row + 1) * n));
      if (best !== id) return `ids[${row}] is ${id}, the largest logit is that of ${best}`;
    }
    return undefined;
  },

  moe_router: (sample, outputs) => {
    const experts = range(0, sample.size("experts"));
    const operands = { x: sample.input("x"), gate: sample.weight("gate", experts), correction: sample.vector("correction", experts) };
    const chosen = sample.size("chosen");
    const [logits, indices, weights] = sample.run("moe_router", operands, { k: chosen, norm_min: sample.params.norm_min });
    const error = sample.compare("logits", outputs, experts, logits as RefTensor);
    if (error) return error;
    const found = outputs.get("indices") as Int32Array;
    for (const [i, row] of sample.rows.entries()) {
      for (let j = 0; j < chosen; j++) {
        const [id, wanted] = [found[row * chosen + j] as number, indices?.data[i * chosen + j] as number];
        if (id !== wanted && !isTie(logits as RefTensor, i, id, wanted, operands.correction))
          return `indices[${row}, ${j}] is ${id}, expected ${wanted}`;
      }
    }
    return sample.compare("weights", outputs, range(0, chosen), weights as RefTensor);
  },

  moe_ffn: (sample, outputs) => {
    const [hidden, m, group] = [sample.size("hidden"), sample.size("m"), sample.size("group")];
    const indices = sample.input("indices");
    const columns = sample.pick(hidden, 2 * COLUMNS);
    // Ids ascend among those that are left as they did among all, so that sums are made in the same order.
    const experts = [...new Set(indices.data)].sort((a, b) => a - b);
    const operands = {
      x: sample.input("x"),
      indices: refTensor(
        "i32",
        indices.shape,
        Array.from(indices.data, (id) => experts.indexOf(id)),
      ),
      weights: sample.input("weights"),
      gate_up: sample.weight("gate_up", range(0, 2 * m), experts),
      down: sample.weight("down", columns, experts),
      addend: sample.operand("addend") ? sample.input("addend", columns) : undefined,
    };
    const [out] = sample.run("moe_ffn", operands, { group, dtype: sample.params.x });
    return sample.compare("out", outputs, columns, out as RefTensor);
  },
};

function checkProduct(sample: Sample, outputs: Outputs): string | undefined {
  const columns = sample.pick(sample.size("n"), COLUMNS);
  const { operands: normed, attrs } = sample.norm();
  const operands = {
    x: sample.input("x"),
    weight: sample.weight("weight", columns),
    bias: sample.vector("bias", columns),
    residual: sample.operand("residual") ? sample.input("residual", columns) : undefined,
    ...normed,
  };
  const [out] = sample.run(sample.op, operands, { dtype: sample.params.out, ...attrs });
  return sample.compare("out", outputs, columns, out as RefTensor);
}

function isTie(logits: RefTensor, row: number, a: number, b: number, correction: RefTensor | undefined): boolean {
  const count = logits.shape[1] as number;
  if (!(a >= 0 && a < count)) return false;
  const values = Array.from(logits.data.subarray(row * count, (row + 1) * count), (logit) => Math.exp(logit));
  const sum = values.reduce((total, value) => total + value, 0);
  const key = (id: number): number => (values[id] as number) / sum + ((correction?.data[id] as number | undefined) ?? 0);
  return Math.abs(key(a) - key(b)) <= TIE;
}

/** The lowest id of the largest value. */
function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if ((values[i] as number) > (values[best] as number)) best = i;
  return best;
}

function range(start: number, length: number): readonly number[] {
  return Array.from({ length }, (_, i) => start + i);
}
