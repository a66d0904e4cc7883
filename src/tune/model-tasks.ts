/** The tasks of a model: the choices that there are about its steps, and each launch of its graphs at level `kernel` that has something to tune, for the asked sizes of steps, each task once. */

import type { CompileRequest } from "../frontend/model-json.js";
import { stepProblem } from "../frontend/step-problem.js";
import type { Graph, NodeOf } from "../ir/graph.js";
import { PERSISTENT_TOKENS } from "../kernels/cuda/persistent.js";
import type { KernelParams } from "../kernels/kernel-def.js";
import { PROMPT_TOKENS, STEPS, type StepOp } from "../kernels/steps.js";
import { kernelByName } from "../kernels/table.js";
import { type ArchLevel, targetOf } from "../toolchain/arch.js";
import { isTunedOp } from "./problems.js";
import { kernelsOf, makeTask, type Task, taskSpace } from "./task.js";

export interface StepSizes {
  /** Sequences of a decode step. */
  readonly batches: readonly number[];
  /** Of one sequence, in a prefill step. */
  readonly tokens: readonly number[];
}

/** By key. A size is of the smallest bucket that holds it, or of the largest there is: on a GPU buckets differ in fusions and kernels. */
export function modelTasks(graphs: readonly Graph[], { batches, tokens }: StepSizes, arch: ArchLevel): readonly Task[] {
  const tasks = new Map<string, Task>();
  const add = (program: string, sizes: readonly number[], rowsOf: (node: NodeOf<"launch">, size: number, graph: Graph) => number): void => {
    for (const size of sizes) {
      const graph = bucketFor(graphs, program, size);
      for (const node of graph?.nodes ?? []) {
        if (node.op !== "launch") continue;
        const kernel = kernelByName(node.attrs.op, node.attrs.kernel);
        if (!isTunedOp(kernel.op)) continue;
        const task = makeTask(kernel, node.attrs.params as KernelParams, rowsOf(node, size, graph as Graph));
        if (!kernel.tunables?.length && kernelsOf(task, arch).length === 1) continue;
        const { launches } = tasks.get(task.key) ?? task;
        const step = `${program}_${program === "decode" ? "s" : "t"}${size}`;
        tasks.set(task.key, { ...task, launches: { ...launches, [step]: (launches?.[step] ?? 0) + 1 } });
      }
    }
  };
  add("decode", batches, (_, batch) => batch);
  add("prefill", tokens, (node, count, { bounds }) => {
    if ((node.attrs.params as KernelParams).rows !== "sequences") return count;
    // A GPU's kernel is chosen for as many sequences as the bucket may bring.
    return kernelByName(node.attrs.op, node.attrs.kernel).target === "cuda" ? (bounds.S?.max ?? 1) : 1;
  });
  return [...tasks.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
}

/** What there is to choose above kernels. `cores`: of the machine that is tuned, for an engine on a CPU. */
export function stepTasks(
  { config, activations, deterministic }: Pick<CompileRequest, "config" | "activations" | "deterministic">,
  { batches, tokens }: StepSizes,
  arch: ArchLevel,
  cores: number,
): readonly Task[] {
  const target = targetOf(arch);
  const problem = stepProblem(config, activations);
  const tasks: Task[] = [];
  const add = (op: StepOp, more: KernelParams, rows: number): void => {
    const entry = STEPS.find((step) => (step.op as string) === op && step.target === target);
    const task = entry && makeTask(entry, { ...problem, ...more }, rows);
    const open = task && (task.kernel.tunables?.length || kernelsOf(task, arch).length > 1);
    if (open && taskSpace(task, arch).size > 1) tasks.push(task);
  };
  // A step in one launch sums in an order of its own.
  if (!deterministic) for (const sequences of batches) if (sequences <= PERSISTENT_TOKENS) add("step_decode", { sequences }, sequences);
  if (tokens.length > 0) add("step_prefill", {}, PROMPT_TOKENS.step_prefill[target]);
  if (batches.length > 0) add("step_request", { cores }, PROMPT_TOKENS.step_request);
  return tasks;
}

function bucketFor(graphs: readonly Graph[], program: string, size: number): Graph | undefined {
  const sizeOf = ({ name }: Graph): number => Number(/_[st]([0-9]+)$/.exec(name)?.[1] ?? Number.POSITIVE_INFINITY);
  const buckets = graphs.filter(({ name }) => name === program || name.startsWith(`${program}_`));
  buckets.sort((a, b) => sizeOf(a) - sizeOf(b));
  return buckets.find((graph) => sizeOf(graph) >= size) ?? buckets.at(-1);
}

/** The sizes that a package has buckets for: what its steps are padded to nothing else. */
export function bucketSizes(graphs: readonly Graph[]): StepSizes {
  const sizes = (program: string): number[] =>
    graphs.flatMap(({ name }) => {
      const size = new RegExp(`^${program}_[st]([0-9]+)$`).exec(name)?.[1];
      return size === undefined ? [] : [Number(size)];
    });
  return { batches: sizes("decode"), tokens: sizes("prefill") };
}

/** The part of a shard, from 1 to `count`: every `count`th, so that a kernel's tasks of different sizes are spread. */
export function shardOf(tasks: readonly Task[], index: number, count: number): readonly Task[] {
  return tasks.filter((_, i) => i % count === index - 1);
}

/** Tasks whose kernel or op a glob names: `*` is any text. */
export function matching(tasks: readonly Task[], glob: string): readonly Task[] {
  const pattern = new RegExp(`^${glob.replace(/[.+?^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*")}$`);
  return tasks.filter(({ kernel }) => pattern.test(kernel.name) || pattern.test(kernel.op));
}
