/** When two programs read the same weight: expressions over weights are compared by their text, since each program is a graph of its own. */

import { bug } from "../../diagnostics.js";
import { type Graph, type LooseAttrs, type LooseOperands, type Node, operandValues, type Value } from "../../ir/graph.js";
import { hasTrait } from "../../ir/ops.js";
import { sha256 } from "../../toolchain/cache.js";

export class WeightKeys {
  readonly #producers = new Map<Value, Node>();
  readonly #keys = new Map<Value, string>();

  constructor(graph: Graph) {
    for (const node of graph.nodes) {
      if (!hasTrait(node.op, "weight")) continue;
      for (const result of node.results) this.#producers.set(result, node);
    }
  }

  isWeight(value: Value): boolean {
    return this.#producers.has(value);
  }

  producer(value: Value): Node {
    const node = this.#producers.get(value);
    if (!node) throw bug("asked for the expression of a value that is no weight");
    return node;
  }

  /** Equal for equal expressions, in whatever graph. Long ones are hashed: a layer's experts are hundreds of tensors. */
  key(value: Value): string {
    const known = this.#keys.get(value);
    if (known !== undefined) return known;
    const node = this.producer(value);
    const text = `${node.op}(${operandValues(node)
      .map((operand) => this.key(operand))
      .join(",")})${JSON.stringify(node.attrs, Object.keys(node.attrs as LooseAttrs).sort())}`;
    const key = text.length > 200 ? sha256(text) : text;
    this.#keys.set(value, key);
    return key;
  }
}

/** Of each graph; buckets, which share their nodes, share it too. */
export function weightKeys(graphs: readonly Graph[]): readonly WeightKeys[] {
  const byNodes = new Map<Graph["nodes"], WeightKeys>();
  return graphs.map((graph) => {
    const keys = byNodes.get(graph.nodes) ?? new WeightKeys(graph);
    byNodes.set(graph.nodes, keys);
    return keys;
  });
}

/** A weight that a node which computes something reads, and as which operand. */
export interface WeightRead {
  readonly node: Node;
  readonly operand: string;
  readonly value: Value;
}

export function weightReads(graph: Graph, keys: WeightKeys): WeightRead[] {
  const reads: WeightRead[] = [];
  for (const node of graph.nodes) {
    if (hasTrait(node.op, "weight")) continue;
    for (const [operand, entry] of Object.entries(node.operands as LooseOperands)) {
      const values = entry === undefined ? [] : Array.isArray(entry) ? (entry as readonly Value[]) : [entry as Value];
      for (const value of values) if (keys.isWeight(value)) reads.push({ node, operand, value });
    }
  }
  return reads;
}
