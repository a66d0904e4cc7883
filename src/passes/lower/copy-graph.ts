/** Copies a graph node by node while a lowering decides what each becomes. The rewriter of src/ir is for local patterns; this is for passes that touch every node. */

import { Builder, type Graph, type LooseAttrs, type LooseOperands, type Node, type Value } from "../../ir/graph.js";

export interface CopyContext {
  readonly build: Builder;
  /** The new graph's value for one of the old. */
  readonly value: (old: Value) => Value;
  /** Operands with every value replaced by the new graph's. */
  readonly operands: (node: Node) => LooseOperands;
  /** Copies the node as it is. */
  readonly keep: (node: Node) => readonly Value[];
}

/** `visit` makes what stands for a node and returns a value for each of its results; null leaves the node out, and nobody may read its results. */
export function copyGraph(graph: Graph, visit: (node: Node, context: CopyContext) => readonly Value[] | null): Graph {
  const build = new Builder(graph.name, graph.bounds);
  const values = new Map<Value, Value>();
  for (const { name, value } of graph.params) values.set(value, build.param(name, value.type));
  const value = (old: Value): Value => {
    const made = values.get(old);
    if (!made) throw new Error("a value is read whose node was left out");
    return made;
  };
  const operands = (node: Node): LooseOperands => mapOperands(node.operands as LooseOperands, value);
  const keep = (node: Node): readonly Value[] => {
    const types = node.results.map((result) => result.type);
    return build.nodeUnchecked(node.op, operands(node), node.attrs as LooseAttrs, types, node.origin).results;
  };
  for (const node of graph.nodes) {
    const results = visit(node, { build, value, operands, keep });
    if (results) for (const [i, result] of node.results.entries()) values.set(result, results[i] as Value);
  }
  for (const { name, value: old } of graph.returns) build.returns(name, value(old));
  return build.finish();
}

/**
 * Buckets of one program differ in bounds and share their nodes (clone-buckets). Where a pass does the same to several, it does it once, and they go
 * on sharing: `alike` tells apart what it does to graphs of the same nodes.
 */
export class BucketCopies {
  readonly #made = new Map<Graph["nodes"], Map<string, Graph>>();

  copy(graph: Graph, alike: string, make: () => Graph): Graph {
    const known = this.#made.get(graph.nodes) ?? new Map<string, Graph>();
    this.#made.set(graph.nodes, known);
    const first = known.get(alike);
    if (first?.nodes === graph.nodes) return graph;
    if (first) return Object.freeze({ ...first, name: graph.name, bounds: graph.bounds });
    const made = make();
    known.set(alike, made);
    return made;
  }
}

export function mapOperands(operands: LooseOperands, map: (value: Value) => Value): LooseOperands {
  const mapped: { [name: string]: Value | readonly Value[] } = {};
  for (const [name, entry] of Object.entries(operands)) {
    if (entry !== undefined) mapped[name] = Array.isArray(entry) ? entry.map(map) : map(entry as Value);
  }
  return mapped;
}
