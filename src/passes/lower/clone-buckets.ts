/**
 * One program becomes one for each bucket of its size, with narrower bounds and otherwise the same: decode by sequences, prefill by tokens. What follows
 * then chooses kernels and memory for each bucket; the runtime takes the smallest that holds a step.
 */

import type { Graph } from "../../ir/graph.js";
import type { SymbolBounds } from "../../ir/types.js";
import { definePass, type ProgramsPass } from "../pass.js";

export interface BucketLimits {
  readonly maxBatch: number;
  readonly prefillChunk: number;
}

/** Most tokens of the smaller prefill buckets; the largest is the prefill chunk. */
const PREFILL_TOKENS = [16, 128];

export function cloneBuckets(limits: BucketLimits): ProgramsPass {
  return definePass({
    name: "clone-buckets",
    needs: "fused",
    leaves: "fused",
    runAll: (graphs) => graphs.flatMap((graph) => bucketsOf(graph, limits)),
  });
}

function bucketsOf(graph: Graph, { maxBatch, prefillChunk }: BucketLimits): readonly Graph[] {
  switch (graph.name) {
    case "decode":
      return sizes(1, maxBatch).map((s) => bucket(graph, `decode_s${s}`, s, s));
    case "prefill": {
      // A step may bring one token of every sequence, however short the chunk is.
      const largest = Math.max(prefillChunk, maxBatch);
      return [...PREFILL_TOKENS.filter((t) => t < largest), largest].map((t) => bucket(graph, `prefill_t${t}`, t, Math.min(t, maxBatch)));
    }
    default:
      return [graph];
  }
}

/** `first`, twice that and so on, and `last`. */
function sizes(first: number, last: number): number[] {
  const list: number[] = [];
  for (let size = first; size < last; size *= 2) list.push(size);
  return [...list, last];
}

function bucket(graph: Graph, name: string, tokens: number, sequences: number): Graph {
  const bounds: SymbolBounds = { ...graph.bounds, T: { min: 1, max: tokens }, S: { min: 1, max: sequences } };
  return Object.freeze({ ...graph, name, bounds: Object.freeze(bounds) });
}
