/** How much of the weights one step of a program reads: what bounds decoding, which does little else. */

import type { Graph, Value } from "../../ir/graph.js";
import type { KernelParams } from "../../kernels/kernel-def.js";
import { kernelByName } from "../../kernels/table.js";
import { namedOperands } from "../lower/launches.js";

/** Bytes of weights that a step of `rows` rows reads, each once; of a graph of launches whose weights are buffers. */
export function weightTraffic(graph: Graph, rows: number): number {
  const bytes = new Map<Value, number>();
  for (const node of graph.nodes) if (node.op === "buffer") bytes.set(node.results[0] as Value, node.attrs.bytes);
  const shares = new Map<Value, number>();
  for (const node of graph.nodes) {
    if (node.op !== "launch") continue;
    const kernel = kernelByName(node.attrs.op, node.attrs.kernel);
    for (const [operand, value] of namedOperands(node)) {
      if (!bytes.has(value)) continue;
      const share = kernel.share?.[operand]?.(node.attrs.params as KernelParams, rows) ?? 1;
      shares.set(value, Math.max(share, shares.get(value) ?? 0));
    }
  }
  return [...shares].reduce((sum, [value, share]) => sum + Math.round(share * (bytes.get(value) as number)), 0);
}
