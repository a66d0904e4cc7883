/**
 * Patterns over a graph. A pattern names nodes by op and says which operands are results of one another; what it does not mention may be
 * anything. Matching starts at the root, the last name of the pattern, and goes up through operands, so everything must be above the root.
 *
 *     { s: op("add", { a: "a", b: "b" }), y: op("rms_norm", { x: "s", weight: "w" }) }
 *
 * binds the nodes s and y and the values a, b and w. `parts.1` is the second result of the node `parts`. The two operands of a commutative op
 * match in either order.
 */

import type { GraphInfo } from "./analysis.js";
import type { LooseOperands, Node, NodeOf, Value } from "./graph.js";
import { hasTrait, type OPS, type OpName } from "./ops.js";

type OperandName<K extends OpName> = (typeof OPS)[K]["operands"][number] extends infer N
  ? N extends `${infer Base}?` | `${infer Base}*`
    ? Base
    : N & string
  : never;

export interface Pattern<K extends OpName = OpName, O extends object = object> {
  readonly op: K;
  /** Name of an operand -> name of a node or of a value. */
  readonly operands: O;
}
export type Patterns = { readonly [name: string]: Pattern };

type RefsOf<M extends Patterns> = { [N in keyof M]: M[N] extends Pattern<OpName, infer O> ? O[keyof O] & string : never }[keyof M];
type NodeRef<M extends Patterns> = (keyof M & string) | `${keyof M & string}.${number}`;
/** What a pattern binds: a node for each of its names, a value for each other name that it mentions. */
export type Captures<M extends Patterns> = {
  readonly [N in keyof M]: M[N] extends Pattern<infer K, infer _O> ? NodeOf<K> : never;
} & { readonly [V in Exclude<RefsOf<M>, NodeRef<M>>]: Value };

export function op<K extends OpName, const O extends { readonly [N in OperandName<K>]?: string } = Record<never, string>>(
  name: K,
  operands: O = {} as O,
): Pattern<K, O> {
  return { op: name, operands };
}

export type Bindings = ReadonlyMap<string, Node | Value>;

/** Names of a pattern that can't be reached from its root; there must be none. */
export function unreachableNames(pattern: Patterns): readonly string[] {
  const reached = new Set<string>();
  const visit = (name: string): void => {
    const wanted = pattern[name];
    if (!wanted || reached.has(name)) return;
    reached.add(name);
    for (const ref of Object.values(wanted.operands as { readonly [name: string]: string })) visit(ref.split(".")[0] as string);
  };
  visit(Object.keys(pattern).at(-1) ?? "");
  return Object.keys(pattern).filter((name) => !reached.has(name));
}

/** All ways in which `pattern` matches with `root` as its last node; more than one only through commutative ops. */
export function matchAll(pattern: Patterns, root: Node, info: GraphInfo): Bindings[] {
  const rootName = Object.keys(pattern).at(-1);
  if (rootName === undefined || pattern[rootName]?.op !== root.op) return [];
  return bindNode(pattern, rootName, root, info, new Map());
}

/** Bindings extended by `node` under `name` and by everything above it; none if it doesn't fit. */
function bindNode(pattern: Patterns, name: string, node: Node, info: GraphInfo, bound: Bindings): Bindings[] {
  const wanted = pattern[name] as Pattern;
  if (bound.has(name)) return bound.get(name) === node ? [bound] : [];
  if (node.op !== wanted.op) return [];
  const start = new Map(bound).set(name, node);
  return operandOrders(node, wanted).flatMap((operands) => {
    let states: Bindings[] = [start];
    for (const [ref, value] of operands) states = states.flatMap((state) => (value ? bindRef(pattern, ref, value, info, state) : []));
    return states;
  });
}

function bindRef(pattern: Patterns, ref: string, value: Value, info: GraphInfo, bound: Bindings): Bindings[] {
  const [name, index] = ref.split(".") as [string, string | undefined];
  if (Object.hasOwn(pattern, name)) {
    const producer = info.producer(value);
    if (!producer || producer.results[Number(index ?? 0)] !== value) return [];
    return bindNode(pattern, name, producer, info, bound);
  }
  const before = bound.get(ref);
  if (before !== undefined) return before === value ? [bound] : [];
  return [new Map(bound).set(ref, value)];
}

/** The operands that the pattern mentions with what is there, once for each order in which they may stand. */
function operandOrders(node: Node, { operands }: Pattern): [string, Value | undefined][][] {
  const values = node.operands as LooseOperands;
  const pairs = (swap: (name: string) => string) =>
    Object.entries(operands as { readonly [name: string]: string }).map(([name, ref]): [string, Value | undefined] => [
      ref,
      values[swap(name)] as Value | undefined,
    ]);
  const asWritten = pairs((name) => name);
  if (!hasTrait(node.op, "commutative")) return [asWritten];
  const [first, second] = Object.keys(values) as [string, string];
  return [asWritten, pairs((name) => (name === first ? second : name === second ? first : name))];
}
