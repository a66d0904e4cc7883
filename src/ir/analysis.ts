/** What follows from a graph and is asked for often: who makes a value, who reads it, what depends on what. Side maps; nodes carry nothing. */

import { type Graph, type LooseAttrs, type LooseOperands, type Node, type NodeOf, operandValues, type Value } from "./graph.js";
import { type AttrValue, hasTrait, isOpName, type OpName } from "./ops.js";

export class GraphInfo {
  readonly #producers = new Map<Value, Node>();
  readonly #readers = new Map<Value, Node[]>();
  readonly #order = new Map<Node, number>();
  readonly #returned: ReadonlySet<Value>;

  constructor(readonly graph: Graph) {
    this.#returned = new Set(graph.returns.map(({ value }) => value));
    for (const [i, node] of graph.nodes.entries()) {
      this.#order.set(node, i);
      for (const result of node.results) this.#producers.set(result, node);
      // A node that reads a value twice is one reader.
      for (const value of new Set(operandValues(node))) {
        const readers = this.#readers.get(value);
        if (readers) readers.push(node);
        else this.#readers.set(value, [node]);
      }
    }
  }

  /** All nodes of one op, in order. */
  nodesOf<K extends OpName>(op: K): readonly NodeOf<K>[] {
    return this.graph.nodes.filter((node) => node.op === op) as unknown as NodeOf<K>[];
  }

  /** The node that makes a value; none for a parameter. */
  producer(value: Value): Node | undefined {
    return this.#producers.get(value);
  }

  /** Nodes that read a value, in order. */
  readers(value: Value): readonly Node[] {
    return this.#readers.get(value) ?? [];
  }

  isReturned(value: Value): boolean {
    return this.#returned.has(value);
  }

  /** Whether nothing but `node` reads `value`. */
  onlyReader(value: Value, node: Node): boolean {
    return !this.isReturned(value) && this.readers(value).every((reader) => reader === node);
  }

  /** Whether a result of a node is read or returned. */
  isUsed(node: Node): boolean {
    return node.results.some((result) => this.isReturned(result) || this.readers(result).length > 0);
  }

  position(node: Node): number {
    return this.#order.get(node) ?? -1;
  }

  /** Whether `value` was made after `other`; a parameter is made before all. */
  isLater(value: Value, other: Value): boolean {
    const position = (v: Value): number => {
      const producer = this.producer(v);
      return producer ? this.position(producer) : -1;
    };
    return position(value) > position(other);
  }
}

/** The op that a node stands for: its own, or that of a launch. */
export function meaningOf(node: Node): OpName {
  return node.op === "launch" && isOpName(node.attrs.op) ? node.attrs.op : node.op;
}

/** Whether a node changes something besides making its results: it appends to a cache, or writes buffers. */
export function hasEffect(node: Node): boolean {
  return !hasTrait(meaningOf(node), "pure");
}

/** The cache values that a node takes over: what it gives back is their next state. */
export function consumedCaches(node: Node): readonly Value[] {
  return hasEffect(node) ? operandValues(node).filter((value) => value.type.kind === "kv") : [];
}

/** The operands and attributes of the op that a launch stands for, as that op has them. */
export function launchedOp(
  node: Extract<Node, { op: "launch" }>,
  operandNames: readonly string[],
): { operands: LooseOperands; attrs: LooseAttrs } {
  const args = [...node.operands.args];
  const operands: { [name: string]: Value | readonly Value[] } = {};
  for (const [i, name] of operandNames.entries()) {
    if (node.attrs.present[i] !== 1) continue;
    if (name.endsWith("*")) operands[name.slice(0, -1)] = args.splice(0);
    else {
      const value = args.shift();
      if (value) operands[name.replace(/\?$/, "")] = value;
    }
  }
  return { operands, attrs: node.attrs.op_attrs as { readonly [name: string]: AttrValue } };
}
