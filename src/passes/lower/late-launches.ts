/**
 * On a GPU a launch may start while those before it run, and waits before it reads what they write. A launch that is `late` lets others start only after
 * its own wait: who starts then knows that all before the late one is complete. So a kernel whose operands come from further back need not wait for them: the experts
 * of a mixture, which fetch weights by the router's choice. runtime/device/cuda/kernel.cuh has the rules.
 */

import type { Graph, LooseOperands, Node, Value } from "../../ir/graph.js";
import type { ChosenKernel } from "./select-kernels.js";

/** The choices with `early` where it is true, and `late` on the launches that make it so. */
export function markLate(graph: Graph, chosen: ReadonlyMap<Node, ChosenKernel>): ReadonlyMap<Node, ChosenKernel> {
  const launches = graph.nodes.filter((node) => chosen.has(node));
  const madeBy = new Map<Value, number>(launches.flatMap((node, i) => node.results.map((result) => [result, i] as const)));
  const marked = new Map(chosen);
  const mark = (node: Node, name: string): void => {
    const { kernel, params } = marked.get(node) as ChosenKernel;
    marked.set(node, { kernel, params: { ...params, [name]: true } });
  };
  for (const [i, node] of launches.entries()) {
    const { early } = (chosen.get(node) as ChosenKernel).kernel;
    if (!early) continue;
    const last = Math.max(...early.map((name) => madeBy.get((node.operands as LooseOperands)[name] as Value) ?? -1));
    const late = launches.slice(last + 1, i).find((between) => chosen.get(between)?.kernel.late);
    if (!late) continue;
    mark(late, "late");
    mark(node, "early");
  }
  return marked;
}
