/**
 * From bytes and operations to seconds, for choices between kernels and layouts that nobody has timed. The constants are of a small server core
 * and only their ratio counts: a measured row in tuning/ always wins over this.
 */

import type { Cost } from "../../codegen/kernel-def.js";
import type { Graph, Node } from "../../ir/graph.js";
import { maxDim } from "../../ir/types.js";
import type { ArchLevel } from "../../toolchain/arch.js";

const BYTES_PER_SECOND = 25e9;
const OPERATIONS_PER_SECOND: { readonly [level in ArchLevel]: number } = {
  "x86-64-v3": 60e9,
  "x86-64-v4": 110e9,
  "x86-64-v4-vnni": 110e9,
  "x86-64-v4-bf16": 210e9,
};

export function costInSeconds({ bytes, operations }: Cost, arch: ArchLevel): number {
  return Math.max(bytes / BYTES_PER_SECOND, operations / OPERATIONS_PER_SECOND[arch]);
}

/** The most rows that a node has in its program. */
export function launchRows(node: Node, graph: Graph): number {
  for (const { type } of node.results)
    if (type.kind === "tensor" && type.shape.length > 0) return maxDim(type.shape[0] as number, graph.bounds);
  return 1;
}
