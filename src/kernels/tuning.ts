/**
 * Measured choices: rows of tuning/<device class>.json, as schema/tuning.schema.json describes them. A row of exactly this problem counts, else the
 * nearest of the same kernel family, else the table's default stands. Rows come from sweeps; nothing here measures.
 */

import { readFileSync } from "node:fs";
import { Ajv } from "ajv";
import { Diagnostic } from "../diagnostics.js";
import type { AnyKernel, KernelParams } from "./kernel-def.js";
import { CHOICES } from "./table.js";

export interface TuningRow {
  readonly op: string;
  /** Sizes and element types of the problem, as the kernel's parameters name them. */
  readonly problem: KernelParams;
  /** Layout of each weight operand. */
  readonly layouts: { readonly [operand: string]: string };
  /** Most rows of the bucket that was timed. */
  readonly rows: number;
  readonly winner: TimedChoice;
  readonly runnerUp?: TimedChoice;
  readonly default?: TimedChoice;
}

export interface TimedChoice {
  readonly kernel: string;
  readonly params: KernelParams;
  readonly seconds: number;
  /** Of the median, 95 %. */
  readonly interval?: readonly [number, number];
}

export interface TuningTable {
  readonly device: string;
  readonly rows: readonly TuningRow[];
}

/** Problems whose sizes differ by more than this factor in all say nothing about each other. */
const FARTHEST = Math.log(4);

/** The same depth below the project's root in src and in dist. */
const SCHEMA_URL = new URL("../../schema/tuning.schema.json", import.meta.url);

/**
 * Reads a table that somebody else measured: it is what the schema says, or refused. `strict`: so is one that names kernels or tunables that this
 * compiler does not have; else, as for tables that builds find by themselves, such rows are of another version and are passed over.
 */
export function readTuning(path: string, { strict = true } = {}): TuningTable {
  const refuse = (message: string, cause?: unknown): Diagnostic =>
    new Diagnostic({
      code: "tuning-unreadable",
      message,
      place: path,
      hint: "schema/tuning.schema.json describes the table; without --tuning the compiler's own is used",
      cause,
    });
  let table: unknown;
  try {
    table = JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw refuse(cause instanceof Error ? cause.message : String(cause), cause);
  }
  const validate = new Ajv({ allowUnionTypes: true }).compile<TuningTable>(JSON.parse(readFileSync(SCHEMA_URL, "utf8")) as object);
  if (validate(table)) {
    if (strict) checkNames(table, path);
    return table;
  }
  const [error] = validate.errors ?? [];
  throw refuse(`found ${error?.instancePath.slice(1, 120) || "a table"} that is not as the schema says: it ${error?.message ?? ""}`);
}

function checkNames({ rows }: TuningTable, path: string): void {
  for (const [i, row] of rows.entries()) {
    const refuse = (code: string, message: string, known: readonly string[]): Diagnostic =>
      new Diagnostic({
        code,
        message,
        place: `${path}: rows[${i}]`,
        hint: known.length > 0 ? `known are ${known.join(", ")}` : "measure it again",
      });
    const kernels = CHOICES.filter(({ op }) => op === row.op);
    for (const choice of [row.winner, row.runnerUp, row.default]) {
      if (!choice) continue;
      const kernel = kernels.find(({ name }) => name === choice.kernel);
      if (!kernel)
        throw refuse(
          "tuning-unknown-kernel",
          `found ${JSON.stringify(choice.kernel)} for ${JSON.stringify(row.op)}, expected a kernel of it`,
          kernels.map(({ name }) => name),
        );
      const tunables = (kernel.tunables ?? []).map(({ name }) => name);
      const unknown = Object.keys(choice.params).find((name) => !tunables.includes(name));
      if (unknown !== undefined)
        throw refuse("tuning-unknown-parameter", `found ${JSON.stringify(unknown)}, expected a tunable of ${kernel.name}`, tunables);
    }
  }
}

interface Fitting {
  readonly kernel: AnyKernel;
  readonly params: KernelParams;
}

/**
 * The fitting kernel with the parameters that the nearest row names; undefined if no row is near. A row says what is faster than its default: where
 * `standard`, the default here, is another kernel, as kernels for few rows are, or has other tunables, as after a change to the table, it says nothing.
 */
export function bestRow<F extends Fitting>(
  table: TuningTable | undefined,
  fitting: readonly F[],
  rows: number,
  standard?: F,
): F | undefined {
  let best: F | undefined;
  let bestDistance = FARTHEST;
  for (const row of table?.rows ?? []) {
    if (standard && row.default && !isDefault(row.default, standard)) continue;
    const choice = fitting.find(({ kernel }) => kernel.op === row.op && kernel.name === row.winner.kernel);
    const params = choice && withTuned(choice, row);
    if (!params) continue;
    const distance = distanceTo(row, choice, rows);
    if (distance <= bestDistance && (distance < bestDistance || !best)) {
      best = { ...choice, params };
      bestDistance = distance;
    }
  }
  return best;
}

/** Whether a row was measured against this; a tunable that there was not yet was at its default. */
function isDefault({ kernel: name, params: timed }: TimedChoice, { kernel, params }: Fitting): boolean {
  return (
    name === kernel.name &&
    (kernel.tunables ?? []).every((tunable) => (timed[tunable.name] ?? params[tunable.name]) === params[tunable.name])
  );
}

/** A row's parameters, if the kernel still has these tunables with these values. One that it did not have yet was at its default. */
function withTuned({ kernel, params }: Fitting, row: TuningRow): KernelParams | undefined {
  const tuned: { [name: string]: number } = {};
  const tunables = kernel.tunables ?? [];
  if (Object.keys(row.winner.params).some((given) => !tunables.some(({ name }) => name === given))) return undefined;
  for (const { name, values, default: standard } of tunables) {
    const value = row.winner.params[name] ?? standard(params);
    if (typeof value !== "number" || !values(params).includes(value)) return undefined;
    tuned[name] = value;
  }
  return { ...params, ...tuned };
}

/**
 * Sum of the logarithms of the ratios of sizes; infinite where something that is no size differs. Of a GPU's kernel only rows may differ: whether a tiling
 * of another problem has room in registers and shared memory nobody knows.
 */
function distanceTo(row: TuningRow, { kernel, params }: Fitting, rows: number): number {
  let distance = Math.abs(Math.log(row.rows / rows));
  for (const [operand, layout] of Object.entries(row.layouts)) if (params[`${operand}_layout`] !== layout) return Number.POSITIVE_INFINITY;
  for (const [name, value] of Object.entries(row.problem)) {
    const found = params[name];
    // The problem is the default's; another kernel may not have all of its fields.
    if (found === undefined && row.default && row.default.kernel !== row.winner.kernel) continue;
    if (kernel.target === "cpu" && typeof value === "number" && typeof found === "number" && value > 0 && found > 0)
      distance += Math.abs(Math.log(value / found));
    else if (found !== value) return Number.POSITIVE_INFINITY;
  }
  return distance;
}
