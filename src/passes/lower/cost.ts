/**
 * From bytes and operations to seconds, for choices of layouts that nobody has timed; only ratios count. The constants are one core of a Zen 5 server:
 * what `ernie-compile bench -t 1` measured there as read bandwidth and as the rate of a 512-token prefill of ernie-4.5-0.3b compiled for each level.
 */

import type { Graph, Node } from "../../ir/graph.js";
import { maxDim } from "../../ir/types.js";
import type { Cost } from "../../kernels/kernel-def.js";
import type { ArchLevel } from "../../toolchain/arch.js";

interface Rates {
  readonly bytes: number;
  readonly operations: number;
}

/** A second; GPUs as measured with a device-to-device copy and a large matrix product. */
const RATES: { readonly [level in ArchLevel]: Rates } = {
  "x86-64-v3": { bytes: 40e9, operations: 115e9 },
  "x86-64-v4": { bytes: 40e9, operations: 240e9 },
  "x86-64-v4-vnni": { bytes: 40e9, operations: 240e9 },
  "x86-64-v4-bf16": { bytes: 40e9, operations: 420e9 },
  sm_80: { bytes: 1.5e12, operations: 250e12 },
  sm_90a: { bytes: 3.0e12, operations: 790e12 },
};

/** Of one thread of a CPU, or of a whole GPU. */
export function peakOperations(arch: ArchLevel): number {
  return RATES[arch].operations;
}

/** Of the same, from memory. */
export function peakBytes(arch: ArchLevel): number {
  return RATES[arch].bytes;
}

export function costInSeconds({ bytes, operations }: Cost, arch: ArchLevel): number {
  return Math.max(bytes / RATES[arch].bytes, operations / RATES[arch].operations);
}

/** The most rows that a node has in its program. */
export function launchRows(node: Node, graph: Graph): number {
  for (const { type } of node.results)
    if (type.kind === "tensor" && type.shape.length > 0) return maxDim(type.shape[0] as number, graph.bounds);
  return 1;
}
