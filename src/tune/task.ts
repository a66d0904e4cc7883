/**
 * What is tuned: one kernel on one problem with so many rows. A task's key is all of it in one line of plain words and numbers, the same on every
 * machine and for every model that has the problem; a key is read back strictly, since it may come from a file or over a network.
 */

import { Diagnostic } from "../diagnostics.js";
import { isStepProblem } from "../frontend/step-problem.js";
import type { AnyKernel, KernelParams } from "../kernels/kernel-def.js";
import { isStepOp } from "../kernels/steps.js";
import { CHOICES } from "../kernels/table.js";
import type { ArchLevel } from "../toolchain/arch.js";
import { DEVICE_FIELDS, elementsOf, isTunedOp, PROBLEMS, type TunedOp } from "./problems.js";
import { type Configuration, type Parameter, parameter, Space, type Value } from "./space.js";

export interface Task {
  readonly key: string;
  readonly op: TunedOp;
  readonly kernel: AnyKernel;
  /** The kernel's parameters without tunables, layouts and how rows are counted. */
  readonly problem: KernelParams;
  /** Of each weight operand. */
  readonly layouts: { readonly [operand: string]: string };
  readonly rows: number;
  /** Of the model that it came from, in one step, by program; no part of what the task is. */
  readonly launches?: { readonly [program: string]: number };
}

/** Rows of the longest step that anybody has asked for, generously. */
const MAX_ROWS = 2 ** 20;
const MAX_SIZE = 2 ** 24;

/** What a launch's parameters say of its place in a program, which is no part of the problem. */
const PLACE: ReadonlySet<string> = new Set(["rows", "late", "early"]);

export function makeTask(kernel: AnyKernel, params: KernelParams, rows: number): Task {
  const tunables = new Set((kernel.tunables ?? []).map(({ name }) => name));
  const problem: { [name: string]: KernelParams[string] } = {};
  const layouts: { [operand: string]: string } = {};
  for (const [name, value] of Object.entries(params).sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (name.endsWith("_layout")) layouts[name.slice(0, -"_layout".length)] = String(value);
    else if (!PLACE.has(name) && !tunables.has(name)) problem[name] = value;
  }
  return Object.freeze({ key: keyOf(kernel, problem, layouts, rows), op: kernel.op as TunedOp, kernel, problem, layouts, rows });
}

function keyOf(kernel: AnyKernel, problem: KernelParams, layouts: Task["layouts"], rows: number): string {
  const fields = [...Object.entries(problem), ...Object.entries(layouts).map(([operand, layout]) => [`${operand}@`, layout] as const)];
  return [`${kernel.op}/${kernel.name}`, ...fields.map(([name, value]) => `${name}=${value}`), `rows=${rows}`].join(" ");
}

/** The task of a key, of kernels and problems that this build knows; undefined for anything else. Nothing of the text is used but names and numbers. */
export function parseTask(key: string): Task | undefined {
  if (key.length > 1000 || !/^[a-z0-9_/@=. +-]+$/.test(key)) return undefined;
  const [head = "", ...fields] = key.split(" ");
  const kernel = CHOICES.find((entry) => `${entry.op}/${entry.name}` === head);
  if (!(kernel?.tunables || kernel?.takes) || !isTunedOp(kernel.op)) return undefined;
  const params: { [name: string]: KernelParams[string] } = {};
  let rows = 0;
  for (const field of fields) {
    const [name = "", text = "", ...more] = field.split("=");
    if (more.length > 0 || Object.hasOwn(params, name)) return undefined;
    if (name === "rows") rows = Number(text);
    else if (name.endsWith("@")) params[`${name.slice(0, -1)}_layout`] = text;
    else params[name] = text === "true" ? true : text === "false" ? false : /^[0-9.e+-]+$/.test(text) ? Number(text) : text;
  }
  if (!isCount(rows, MAX_ROWS) || !fitsProblem(kernel, params)) return undefined;
  const task = makeTask(kernel, params, rows);
  return task.key === key && isSane(task) ? task : undefined;
}

/** Activations of 2 GiB are none, and elements of a weight are counted in 32 bits. */
function isSane({ op, problem, rows }: Task): boolean {
  const most = { input: 2 ** 29, output: 2 ** 29, weight: 2 ** 32 - 1 } as const;
  const { experts, chosen, n, m, group } = problem as { readonly [name: string]: number };
  if (isStepOp(op)) return isStepProblem(problem);
  if (chosen !== undefined && experts !== undefined && chosen > experts) return false;
  if (group !== undefined && (![8, 16, 32].includes(group) || (m ?? (n as number) / 2) % group !== 0)) return false;
  return PROBLEMS[op].operands(problem, rows).every(({ role, shape }) => elementsOf(shape) <= most[role]);
}

/** Exactly the fields that the problem has, each of its kind, and weights in formats that the kernel reads. */
function fitsProblem(kernel: AnyKernel, params: KernelParams): boolean {
  const { fields, fused = {}, optional = {}, weights } = PROBLEMS[kernel.op as TunedOp];
  const names = new Set(Object.keys(params));
  const onDevice = kernel.target === "cuda" && !isStepOp(kernel.op) ? { ...DEVICE_FIELDS, ...fused } : {};
  for (const [name, kind] of Object.entries({ ...onDevice, ...optional })) {
    const value = params[name];
    const ok =
      kind === "flag"
        ? value === undefined || value === true
        : kind === "count"
          ? value === undefined || isCount(value, MAX_SIZE)
          : params.norm
            ? isPositive(value)
            : value === undefined;
    if (!ok) return false;
    names.delete(name);
  }
  for (const [name, kind] of Object.entries(fields)) {
    const value = params[name];
    const ok =
      kind === "size"
        ? isCount(value, MAX_SIZE)
        : kind === "float"
          ? typeof value === "number" && Number.isFinite(value)
          : kind === "bool"
            ? typeof value === "boolean"
            : value === "f32" || value === "bf16";
    if (!ok || !names.delete(name)) return false;
  }
  for (const [operand, present] of Object.entries(weights)) {
    if (!(present === true || params[present] === true)) continue;
    const formats = kernel.weights?.[operand] ?? [];
    const [layout, dtype] = [params[`${operand}_layout`], params[`${operand}_dtype`]];
    if (!formats.some((format) => format.layout === layout && format.dtype === dtype)) return false;
    names.delete(`${operand}_layout`);
    names.delete(`${operand}_dtype`);
  }
  return names.size === 0;
}

function isPositive(value: unknown): boolean {
  return typeof value === "number" && Number.isFinite(value) && value > 0;
}

function isCount(value: unknown, max: number): boolean {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 1 && value <= max;
}

/** What a variant says of which kernel of the op it is of: nothing where it is the task's own. */
export const KERNEL_CHOICE = "kernel";

/** All that makes the kernel's source, with tunables as the configuration says. */
export function paramsOf({ problem, layouts }: Task, variant: Configuration): KernelParams {
  const { [KERNEL_CHOICE]: _, ...tuned } = variant;
  return {
    ...problem,
    ...Object.fromEntries(Object.entries(layouts).map(([operand, layout]) => [`${operand}_layout`, layout])),
    ...tuned,
  };
}

export function kernelOf({ kernel, op }: Task, variant: Configuration): AnyKernel {
  const name = variant[KERNEL_CHOICE];
  return (name === undefined ? undefined : CHOICES.find((entry) => entry.op === op && entry.name === name)) ?? kernel;
}

/** The kernels that a variant may be of, the task's own first. */
export function kernelsOf(task: Task, arch: ArchLevel): readonly AnyKernel[] {
  const { kernel, rows } = task;
  const params = paramsOf(task, {});
  const others = CHOICES.filter(
    (other) =>
      other.op === kernel.op &&
      other.target === kernel.target &&
      other.name !== kernel.name &&
      readsAlike(other, kernel, params) &&
      other.takes?.(params, { rows, arch }),
  );
  return [kernel, ...others];
}

/** Whether it reads the weights as they are packed. */
function readsAlike(other: AnyKernel, kernel: AnyKernel, params: KernelParams): boolean {
  return Object.keys(kernel.weights ?? {}).every((operand) => {
    const layout = params[`${operand}_layout`];
    const formats = other.weights?.[operand] ?? [];
    return layout === undefined || formats.some((format) => format.layout === layout && format.dtype === params[`${operand}_dtype`]);
  });
}

export function defaultVariant({ kernel, problem }: Task): Configuration {
  return Object.fromEntries((kernel.tunables ?? []).map(({ name, default: value }) => [name, value(problem)]));
}

/** Of the other kernels that a variant may be of. */
export function kernelDefaults(task: Task, arch: ArchLevel): readonly Configuration[] {
  return kernelsOf(task, arch)
    .slice(1)
    .map((kernel) => ({ [KERNEL_CHOICE]: kernel.name, ...defaultVariant({ ...task, kernel }) }));
}

/** What stands in a configuration for a tunable that its kernel does not have. */
const ABSENT = 0;

/** The variants that are worth measuring. The default is always one of them. */
export function taskSpace(task: Task, arch: ArchLevel): Space {
  const kernels = kernelsOf(task, arch);
  const spaces = kernels.map((kernel) => ({ kernel, own: ownParameters(kernel, task) }));
  const allowed = (kernel: AnyKernel, variant: Configuration): boolean =>
    kernel.constraint?.(paramsOf(task, variant), { rows: task.rows, arch }) ?? true;
  const space =
    kernels.length === 1
      ? Space.enumerate(ownParameters(task.kernel, task), (variant) => allowed(task.kernel, variant))
      : joinSpaces(spaces, allowed);
  if (indexOf(space, defaultVariant(task)) === undefined)
    throw new Diagnostic({
      code: "tune-space-default",
      kind: "bug",
      message: "the constraint forbids the default variant",
      place: task.key,
      hint: "this is a bug in ernie-compile's kernel table: please report it",
    });
  return space;
}

function ownParameters({ tunables }: AnyKernel, { problem }: Task): readonly Parameter[] {
  return (tunables ?? []).map(({ name, values }) => parameter(name, values(problem)));
}

/** One space of those of several kernels: which kernel it is comes first, and a tunable that a kernel does not have is 0 for it. */
function joinSpaces(
  spaces: readonly { readonly kernel: AnyKernel; readonly own: readonly Parameter[] }[],
  allowed: (kernel: AnyKernel, variant: Configuration) => boolean,
): Space {
  const names = [...new Set(spaces.flatMap(({ own }) => own.map(({ name }) => name)))];
  const parameters = names.map((name) => {
    const values = spaces.flatMap(({ own }) => own.find((entry) => entry.name === name)?.values ?? [ABSENT]);
    return parameter(name, values);
  });
  const rows = spaces.flatMap(({ kernel, own }) =>
    combinations(own)
      .filter((variant) => allowed(kernel, variant))
      .map((variant) => [kernel.name, ...names.map((name) => variant[name] ?? ABSENT)]),
  );
  return Space.ofRows(
    [
      parameter(
        KERNEL_CHOICE,
        spaces.map(({ kernel }) => kernel.name),
      ),
      ...parameters,
    ],
    rows,
  );
}

function combinations(parameters: readonly Parameter[]): Configuration[] {
  return parameters.reduce<Configuration[]>(
    (all, { name, values }) => all.flatMap((variant) => values.map((value) => ({ ...variant, [name]: value }))),
    [{}],
  );
}

/** The variant of a configuration: without what its kernel does not have. */
export function variantAt(task: Task, space: Space, index: number): Configuration {
  return variantOf(task, space.configuration(index));
}

function variantOf(task: Task, configuration: Configuration): Configuration {
  const { [KERNEL_CHOICE]: name, ...values } = configuration;
  if (name === undefined) return configuration;
  const kernel = kernelOf(task, configuration);
  const own = Object.fromEntries((kernel.tunables ?? []).map((tunable) => [tunable.name, values[tunable.name] as Value]));
  return kernel === task.kernel ? own : { [KERNEL_CHOICE]: name, ...own };
}

/** The configuration that a variant is in a space with these parameters. */
export function configurationOf(kernel: string, parameters: readonly { readonly name: string }[], variant: Configuration): Configuration {
  // Where there is one kernel, a variant says all there is to say.
  if (!parameters.some(({ name }) => name === KERNEL_CHOICE)) return variant;
  const standing = (name: string): Value => (name === KERNEL_CHOICE ? kernel : ABSENT);
  return Object.fromEntries(parameters.map(({ name }) => [name, variant[name] ?? standing(name)]));
}

/** Where a variant stands in a space, if it is in it. */
export function indexOf(space: Space, variant: Configuration): number | undefined {
  const own = space.parameters.find(({ name }) => name === KERNEL_CHOICE)?.values[0];
  return space.indexOf(configurationOf(String(own), space.parameters, variant));
}

/** One line for a variant, tunables in the order of the kernel's table: also what a trial is known by. */
export function variantKey(variant: Configuration): string {
  return Object.entries(variant)
    .map(([name, value]) => `${name}=${value}`)
    .sort()
    .join(" ");
}

/** A variant of this task by its line; undefined if no kernel has such tunables or values. */
export function parseVariant(task: Task, key: string): Configuration | undefined {
  const words = new Map(key.split(" ").map((part) => [part.slice(0, part.indexOf("=")), part.slice(part.indexOf("=") + 1)]));
  const named = words.get(KERNEL_CHOICE);
  const kernel = named === undefined ? task.kernel : CHOICES.find(({ op, name }) => op === task.op && name === named);
  if (!kernel || kernel.target !== task.kernel.target || (named !== undefined && kernel === task.kernel)) return undefined;
  const found: { [name: string]: Value } = named === undefined ? {} : { [KERNEL_CHOICE]: named };
  for (const { name, values } of kernel.tunables ?? []) {
    const value = Number(words.get(name));
    if (!values(task.problem).includes(value)) return undefined;
    found[name] = value;
  }
  return variantKey(found) === key ? found : undefined;
}
