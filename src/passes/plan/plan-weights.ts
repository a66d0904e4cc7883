/**
 * Gives every packed weight of all programs an id and a place in the weights file, in the order in which a step reads them, and replaces its
 * expression by a buffer. What is read from the checkpoint for it goes into the weight plan; the packer does the rest (src/weights/pack-plan.ts).
 */

import { bug } from "../../diagnostics.js";
import type { Graph, Node, Value } from "../../ir/graph.js";
import { hasTrait } from "../../ir/ops.js";
import { type Layout, maxDim, type TensorType } from "../../ir/types.js";
import { PACK_ALIGN, type PackDType, packedBytes } from "../../weights/pack-plan.js";
import { BucketCopies, copyGraph } from "../lower/copy-graph.js";
import { type WeightKeys, weightKeys, weightReads } from "../lower/weight-keys.js";
import { definePass, type ProgramsPass } from "../pass.js";
import { alignUp } from "./place-buffers.js";
import { type PartSource, weightParts } from "./weight-parts.js";

/** What a weight is to its readers; decides what made-up values make sense for it. */
export type WeightUse = "matrix" | "norm" | "bias";

export interface PlannedWeight {
  /** Made by us, from its number. */
  readonly id: string;
  readonly dtype: PackDType;
  readonly layout: Layout;
  readonly shape: readonly [slabs: number, n: number, k: number];
  readonly offset: number;
  readonly bytes: number;
  readonly interleave: number;
  readonly slabs: readonly (readonly PartSource[])[];
  readonly use: WeightUse;
}

export interface WeightPlan {
  readonly weights: readonly PlannedWeight[];
  /** Of the data, without the file's header. */
  readonly bytes: number;
}

export function planWeights(onPlan: (plan: WeightPlan) => void): ProgramsPass {
  return definePass({
    name: "plan-weights",
    needs: "kernel",
    leaves: "plan",
    runAll: (graphs) => {
      const keys = weightKeys(graphs);
      const { plan, byKey } = placeAll(graphs, keys);
      onPlan(plan);
      const copies = new BucketCopies();
      return graphs.map((graph, i) => copies.copy(graph, "", () => replaceWeights(graph, keys[i] as WeightKeys, byKey)));
    },
  });
}

function placeAll(
  graphs: readonly Graph[],
  keysOf: readonly WeightKeys[],
): { plan: WeightPlan; byKey: ReadonlyMap<string, PlannedWeight> } {
  const byKey = new Map<string, PlannedWeight>();
  let end = 0;
  for (const [i, graph] of graphs.entries()) {
    const keys = keysOf[i] as WeightKeys;
    for (const { node, value } of weightReads(graph, keys)) {
      const key = keys.key(value);
      if (byKey.has(key)) continue;
      const weight = planOne(`w${byKey.size}`, alignUp(end, PACK_ALIGN), node, value, keys);
      end = weight.offset + weight.bytes;
      byKey.set(key, weight);
    }
  }
  return { plan: { weights: [...byKey.values()], bytes: end }, byKey };
}

function planOne(id: string, offset: number, reader: Node, value: Value, keys: WeightKeys): PlannedWeight {
  const { dtype, layout, shape: dims } = value.type as TensorType;
  if (dtype !== "bf16" && dtype !== "f32") throw bug(`a packed weight of ${dtype}`);
  const sizes = dims.map((dim) => maxDim(dim, {}));
  const [slabs, n, k] = sizes.length === 3 ? sizes : sizes.length === 2 ? [1, ...sizes] : [1, ...sizes, 1];
  const shape = [slabs as number, n as number, k as number] as const;
  return {
    id,
    dtype,
    layout,
    shape,
    offset,
    bytes: packedBytes({ layout, dtype, shape }),
    use: useOf(reader, sizes.length),
    ...weightParts(value, keys),
  };
}

function useOf(reader: Node, rank: number): WeightUse {
  const op = reader.op === "launch" ? reader.attrs.op : reader.op;
  return rank > 1 ? "matrix" : /norm/.test(op) ? "norm" : "bias";
}

function replaceWeights(graph: Graph, keys: WeightKeys, byKey: ReadonlyMap<string, PlannedWeight>): Graph {
  const read = new Set(weightReads(graph, keys).map(({ value }) => value));
  if (read.size === 0) return graph;
  return copyGraph(graph, (node, { build, keep }) => {
    if (!hasTrait(node.op, "weight")) return keep(node);
    const [result] = node.results as readonly [Value];
    if (!read.has(result)) return null;
    const { offset, bytes } = byKey.get(keys.key(result)) as PlannedWeight;
    return build.nodeUnchecked("buffer", {}, { space: "weights", offset, bytes }, [result.type], node.origin).results;
  });
}
