/** Makes a graph from another with matches replaced. Which matches is decided in rewrite.ts. */

import { bug } from "../diagnostics.js";
import { type GraphInfo, hasEffect } from "./analysis.js";
import {
  type AttrsOf,
  Builder,
  type Graph,
  type LooseAttrs,
  type LooseOperands,
  mapOperands,
  type Node,
  type NodeOf,
  type OperandsOf,
  type Origin,
  type Value,
} from "./graph.js";
import type { OpName } from "./ops.js";
import type { Match } from "./rule.js";
import { sameType, type Type } from "./types.js";

/** A match that is to be replaced, and the name of the rule that found it. */
export interface Chosen {
  readonly rule: string;
  readonly match: Match;
}

/** Makes the nodes that a rewrite asks for. Operands may be values of the old graph or of nodes just made. */
export class Rebuild {
  constructor(
    private readonly builder: Builder,
    private readonly resolve: (value: Value) => Value,
    private readonly origin: Origin,
  ) {}

  node<K extends OpName>(op: K, operands: OperandsOf<K>, attrs: AttrsOf<K>, stated: readonly Type[] = []): NodeOf<K> {
    return this.nodeLoose(op, operands as LooseOperands, attrs as LooseAttrs, stated) as unknown as NodeOf<K>;
  }

  nodeLoose(op: OpName, operands: LooseOperands, attrs: LooseAttrs, stated: readonly Type[] = []): Node {
    return this.builder.nodeLoose(op, mapOperands(operands, this.resolve), attrs, stated, this.origin);
  }

  /** As `node`, for ops with one result. */
  value<K extends OpName>(op: K, operands: OperandsOf<K>, attrs: AttrsOf<K>): Value {
    const node = this.node(op, operands, attrs);
    if (node.results.length !== 1) throw bug(`${op} has ${node.results.length} results`);
    return node.results[0] as Value;
  }
}

/**
 * One sweep: copies a graph in its order. What a match replaces is made when the first reader asks for it, at the latest where the match's
 * last node stood; nodes that a match makes superfluous are copied only when asked for. So order follows from use, and stays SSA.
 */
export class Replacer {
  readonly #builder: Builder;
  readonly #values = new Map<Value, Value>();
  readonly #copied = new Set<Node>();
  readonly #matchOf = new Map<Node, Chosen>();
  readonly #started = new Set<Chosen>();

  constructor(
    private readonly info: GraphInfo,
    matches: readonly Chosen[],
    private readonly pass: string,
  ) {
    this.#builder = new Builder(info.graph.name, info.graph.bounds);
    for (const chosen of matches) for (const node of chosen.match.nodes) this.#matchOf.set(node, chosen);
  }

  run(): Graph {
    const { graph } = this.info;
    for (const { name, value } of graph.params) this.#values.set(value, this.#builder.param(name, value.type));
    const lastOf = new Map<Chosen, Node>();
    for (const node of graph.nodes) {
      const chosen = this.#matchOf.get(node);
      if (chosen) lastOf.set(chosen, node);
    }
    for (const node of graph.nodes) {
      const chosen = this.#matchOf.get(node);
      if (!chosen) this.#copy(node);
      else if (lastOf.get(chosen) === node) this.#finishMatch(chosen);
    }
    for (const { name, value } of graph.returns) this.#builder.returns(name, this.#ask(value));
    return this.#builder.finish();
  }

  /** The new graph's value for one of the old; values that are of the new graph already stay. */
  readonly #ask = (value: Value): Value => {
    const known = this.#values.get(value);
    if (known) return known;
    const producer = this.info.producer(value);
    if (!producer) return value;
    const chosen = this.#matchOf.get(producer);
    if (chosen) this.#replace(chosen);
    if (!this.#values.has(value)) this.#copy(producer);
    const made = this.#values.get(value);
    if (!made) throw bug(`${this.pass}: ${producer.op} depends on itself after a rewrite`);
    return made;
  };

  #finishMatch(chosen: Chosen): void {
    this.#replace(chosen);
    // A superfluous node with an effect must have been replaced as a whole; if not, it stays.
    for (const node of chosen.match.nodes) {
      if (hasEffect(node) && !node.results.every((result) => this.#values.has(result))) this.#copy(node);
    }
  }

  #replace(chosen: Chosen): void {
    if (this.#started.has(chosen)) return;
    this.#started.add(chosen);
    const { root, nodes, from = nodes, rewrite } = chosen.match;
    const origin: Origin = Object.freeze({ kind: "pass", pass: this.pass, from: Object.freeze([...new Set(from.flatMap(sourcesOf))]) });
    const replacement = rewrite(new Rebuild(this.#builder, this.#ask, origin));
    const pairs = Array.isArray(replacement) ? replacement : [[root.results[0] as Value, replacement as Value] as const];
    for (const [old, by] of pairs as readonly (readonly [Value, Value])[]) {
      const value = this.#ask(by);
      if (!sameType(old.type, value.type)) throw bug(`${this.pass}: ${chosen.rule} changes the type of a result of ${root.op}`);
      this.#values.set(old, value);
    }
  }

  #copy(node: Node): void {
    if (this.#copied.has(node)) return;
    this.#copied.add(node);
    const operands = mapOperands(node.operands as LooseOperands, this.#ask);
    const types = node.results.map((result) => result.type);
    const copy = this.#builder.nodeUnchecked(node.op, operands, node.attrs as LooseAttrs, types, node.origin);
    for (const [i, result] of node.results.entries()) if (!this.#values.has(result)) this.#values.set(result, copy.results[i] as Value);
  }
}

/** What a node goes back to, whatever passes it went through: names of weights and keys of the config. */
function sourcesOf({ origin }: Node): readonly string[] {
  switch (origin.kind) {
    case "pass":
      return origin.from;
    case "weight":
      return [origin.name];
    case "config":
      return [origin.key];
    case "text":
      return [];
  }
}
