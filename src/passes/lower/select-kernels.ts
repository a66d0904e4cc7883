/**
 * Turns each op that computes something into a `launch` of one kernel with its parameters. The first kernel of the table that fits, takes so many rows and reads
 * the weights as they are packed is the default; a measured row for the same problem on the same class of device takes its place. With
 * `deterministic` only kernels of one reduction order are taken, that of the first for few rows, so that results do not depend on bucket, batch or threads.
 */

import { Diagnostic } from "../../diagnostics.js";
import type { Graph, LooseAttrs, LooseOperands, Node, Value } from "../../ir/graph.js";
import { type AttrRecord, hasTrait, opDef } from "../../ir/ops.js";
import { type AnyKernel, fitKernel, type KernelParams, type KernelTarget, type ReductionOrder } from "../../kernels/kernel-def.js";
import { kernelsFor } from "../../kernels/table.js";
import { bestRow, type TuningTable } from "../../kernels/tuning.js";
import { targetOf } from "../../toolchain/arch.js";
import { definePass, type ProgramsPass } from "../pass.js";
import { BucketCopies, copyGraph } from "./copy-graph.js";
import { launchRows } from "./cost.js";
import { markLate } from "./late-launches.js";

export interface KernelOptions {
  readonly target: KernelTarget;
  readonly deterministic?: boolean;
  /** Measurements of this class of device, if there are any. */
  readonly tuning?: TuningTable | undefined;
}

/** A kernel with all its parameters. */
export interface ChosenKernel {
  readonly kernel: AnyKernel;
  readonly params: KernelParams;
}

export function selectKernels(options: KernelOptions): ProgramsPass {
  return definePass({ name: "select-kernels", needs: "kernel", leaves: "kernel", runAll: (graphs) => run(graphs, options) });
}

function run(graphs: readonly Graph[], options: KernelOptions): readonly Graph[] {
  const fitting = new Map<Node, FittingKernels>();
  const copies = new BucketCopies();
  return graphs.map((graph) => {
    const chosen = new Map<Node, ChosenKernel>();
    for (const node of graph.nodes) {
      if (hasTrait(node.op, "weight") || node.op === "launch") continue;
      const kernels = fitting.get(node) ?? fittingKernels(node, graph, options);
      fitting.set(node, kernels);
      chosen.set(node, chooseKernel(kernels, launchRows(node, graph), options));
    }
    if (chosen.size === 0) return graph;
    const marked = markLate(graph, chosen);
    // Measured rows look at a bucket's size, and so do kernels that are for few rows.
    const sized = options.tuning !== undefined || targetOf(options.target.arch) === "cuda";
    const alike = sized ? JSON.stringify([...marked.values()].map(({ kernel, params }) => [kernel.name, params])) : "";
    return copies.copy(graph, alike, () => insertLaunches(graph, marked));
  });
}

function insertLaunches(graph: Graph, chosen: ReadonlyMap<Node, ChosenKernel>): Graph {
  return copyGraph(graph, (node, { build, operands, keep }) => {
    const choice = chosen.get(node);
    if (!choice) return keep(node);
    const { kernel, params } = choice;
    const mapped = operands(node);
    const names = opDef(node.op).operands.map((name) => name.replace(/[?*]$/, ""));
    const args = names.flatMap((name) => mapped[name] ?? []) as readonly Value[];
    const present = names.map((name) => (mapped[name] === undefined ? 0 : 1));
    const types = node.results.map((result) => result.type);
    const attrs = { op: node.op, kernel: kernel.name, present, op_attrs: definedAttrs(node.attrs as LooseAttrs), params };
    return build.nodeUnchecked("launch", { args }, attrs, types, node.origin).results;
  });
}

function definedAttrs(attrs: LooseAttrs): AttrRecord {
  return Object.fromEntries(Object.entries(attrs).filter(([, value]) => value !== undefined)) as AttrRecord;
}

interface FittingKernels {
  /** All kernels that compute a node on its weights as they are packed, with their parameters; the default first. */
  readonly kernels: readonly ChosenKernel[];
  /** What `deterministic` takes: the order of the first kernel, in whatever program, that takes few rows and shares its order with others. */
  readonly order: ReductionOrder;
}

function fittingKernels(node: Node, graph: Graph, { target }: KernelOptions): FittingKernels {
  const reasons: string[] = [];
  const fitting: ChosenKernel[] = [];
  let order: ReductionOrder | undefined;
  for (const kernel of kernelsFor(node.op, targetOf(target.arch))) {
    const params = fitKernel(kernel, node, target);
    if (typeof params !== "string" && kernel.leastRows === undefined && kernel.order !== "by-bucket") order ??= kernel.order;
    const unread = typeof params === "string" ? params : (otherProgram(kernel, graph) ?? unreadWeight(kernel, node));
    if (unread !== undefined || typeof params === "string") reasons.push(`${kernel.name}: ${unread}`);
    else fitting.push({ kernel, params: withDefaults(kernel, { ...params, ...weightParams(kernel, node) }) });
  }
  if (fitting.length === 0) {
    throw new Diagnostic({
      code: "kernel-missing",
      kind: "unsupported",
      message: `no kernel fits this ${node.op}${reasons.length ? `: ${reasons.join("; ")}` : ""}`,
      place: `program ${graph.name}`,
    });
  }
  return { kernels: fitting, order: order ?? (fitting[0] as ChosenKernel).kernel.order };
}

function chooseKernel({ kernels, order }: FittingKernels, rows: number, { deterministic, tuning }: KernelOptions): ChosenKernel {
  // One order, whatever the number of rows: what a row's bits are is the same in each bucket then.
  const allowed = deterministic ? kernels.filter(({ kernel }) => kernel.order === order) : kernels;
  const holding = allowed.filter(({ kernel }) => rows <= (kernel.mostRows ?? Number.POSITIVE_INFINITY));
  const preferred = holding.find(({ kernel }) => (kernel.leastRows ?? 0) <= rows) ?? (allowed.at(-1) as ChosenKernel);
  const tuned = bestRow(tuning, holding, rows, preferred);
  return tuned && !(deterministic && !keepsOrder(tuned)) ? tuned : preferred;
}

/** Whether sums are made as with the kernel's defaults, so that rows have the same bits in every bucket. */
function keepsOrder({ kernel, params }: ChosenKernel): boolean {
  return (kernel.tunables ?? []).every(({ name, reorders, default: value }) => !reorders || params[name] === value(params));
}

/** Clones of a program are named after it. */
function otherProgram({ programs }: AnyKernel, { name }: Graph): string | undefined {
  if (programs === undefined || programs.some((program) => name === program || name.startsWith(`${program}_`))) return undefined;
  return `is for ${programs.join(", ")}`;
}

/** Why a kernel can't read a weight as it is packed. */
function unreadWeight(kernel: AnyKernel, node: Node): string | undefined {
  for (const [operand, formats] of Object.entries(kernel.weights ?? {})) {
    const value = (node.operands as LooseOperands)[operand] as Value | undefined;
    if (value?.type.kind !== "tensor") continue;
    const { layout, dtype } = value.type;
    if (!formats.some((format) => format.layout === layout && format.dtype === dtype))
      return `reads no ${operand} of ${dtype} in ${layout}`;
  }
  return undefined;
}

/** How each weight is packed is part of what makes a kernel's source. */
function weightParams(kernel: AnyKernel, node: Node): KernelParams {
  const params: { [name: string]: string } = {};
  for (const operand of Object.keys(kernel.weights ?? {})) {
    const value = (node.operands as LooseOperands)[operand] as Value | undefined;
    if (value?.type.kind !== "tensor") continue;
    params[`${operand}_dtype`] = value.type.dtype;
    params[`${operand}_layout`] = value.type.layout;
  }
  return params;
}

function withDefaults(kernel: AnyKernel, params: KernelParams): KernelParams {
  const tuned = (kernel.tunables ?? []).map(({ name, default: value }) => [name, value(params)] as const);
  return { ...params, ...Object.fromEntries(tuned) };
}
