/**
 * Turns each op that computes something into a `launch` of one kernel with its parameters. The first kernel of the table that fits and reads the
 * weights as they are packed is the default; a measured row for the same problem on the same class of device takes its place. With
 * `deterministic` only kernels of the default's reduction order are taken, so that results do not depend on bucket, batch or threads.
 */

import { type AnyKernel, fitKernel, type KernelParams, type KernelTarget } from "../../codegen/kernel-def.js";
import { kernelsFor } from "../../codegen/kernels.js";
import { bestRow, type TuningTable } from "../../codegen/tuning.js";
import { Diagnostic } from "../../diagnostics.js";
import type { Graph, LooseAttrs, LooseOperands, Node, Value } from "../../ir/graph.js";
import { type AttrRecord, hasTrait, opDef } from "../../ir/ops.js";
import { definePass, type GraphPass } from "../pass.js";
import { copyGraph } from "./copy-graph.js";
import { launchRows } from "./cost.js";

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

export function selectKernels(options: KernelOptions): GraphPass {
  return definePass({ name: "select-kernels", needs: "kernel", leaves: "kernel", run: (graph) => run(graph, options) });
}

function run(graph: Graph, options: KernelOptions): Graph {
  return copyGraph(graph, (node, { build, operands, keep }) => {
    if (hasTrait(node.op, "weight") || node.op === "launch") return keep(node);
    const { kernel, params } = chooseKernel(node, graph, options);
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

export function chooseKernel(node: Node, graph: Graph, { target, deterministic, tuning }: KernelOptions): ChosenKernel {
  const reasons: string[] = [];
  const fitting: ChosenKernel[] = [];
  for (const kernel of kernelsFor(node.op)) {
    const params = fitKernel(kernel, node, target);
    const unread = typeof params === "string" ? params : unreadWeight(kernel, node);
    if (unread !== undefined || typeof params === "string") reasons.push(`${kernel.name}: ${unread}`);
    else fitting.push({ kernel, params: withDefaults(kernel, { ...params, ...weightParams(kernel, node) }) });
  }
  const preferred = fitting[0];
  if (!preferred) {
    throw new Diagnostic({
      code: "kernel-missing",
      kind: "unsupported",
      message: `no kernel fits this ${node.op}${reasons.length ? `: ${reasons.join("; ")}` : ""}`,
      place: `program ${graph.name}`,
    });
  }
  const allowed = deterministic ? fitting.filter(({ kernel }) => kernel.order === preferred.kernel.order) : fitting;
  return bestRow(tuning, allowed, launchRows(node, graph)) ?? preferred;
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
