/**
 * From bytes and operations to seconds, for choices of layouts that nobody has timed; only ratios count. The constants are one core of a Zen 5 server:
 * what `ernie-compile bench -t 1` measured there as read bandwidth and as the rate of a 512-token prefill of ernie-4.5-0.3b compiled for each level.
 */

import type { Graph, Node } from "../../ir/graph.js";
import { maxDim } from "../../ir/types.js";
import type { Cost } from "../../kernels/kernel-def.js";
import type { ArchLevel } from "../../toolchain/arch.js";

const BYTES_PER_SECOND = 40e9;
const OPERATIONS_PER_SECOND: { readonly [level in ArchLevel]: number } = {
  "x86-64-v3": 115e9,
  "x86-64-v4": 240e9,
  "x86-64-v4-vnni": 240e9,
  "x86-64-v4-bf16": 420e9,
};

/** Of one thread. */
export function peakOperations(arch: ArchLevel): number {
  return OPERATIONS_PER_SECOND[arch];
}

export function costInSeconds({ bytes, operations }: Cost, arch: ArchLevel): number {
  return Math.max(bytes / BYTES_PER_SECOND, operations / OPERATIONS_PER_SECOND[arch]);
}

/** The most rows that a node has in its program. */
export function launchRows(node: Node, graph: Graph): number {
  for (const { type } of node.results)
    if (type.kind === "tensor" && type.shape.length > 0) return maxDim(type.shape[0] as number, graph.bounds);
  return 1;
}
