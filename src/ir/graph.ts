/**
 * The SSA graph: values, nodes, and the builder, which alone makes them. Everything is frozen; a pass makes a new graph.
 * TypeScript types of nodes follow from the op table: `NodeOf<"linear">` has operands x, weight, bias? and attrs dtype.
 */

import { bug } from "../diagnostics.js";
import {
  type AttrKind,
  type AttrKinds,
  type AttrValue,
  type InferArgs,
  type OPS,
  type OpDef,
  type OpName,
  opDef,
  TypeMismatch,
} from "./ops.js";
import type { SymbolBounds, TensorType, Type } from "./types.js";

declare const valueIdBrand: unique symbol;
export type ValueId = number & { readonly [valueIdBrand]: true };

export interface Value {
  readonly id: ValueId;
  readonly type: Type;
}

/** Where a node comes from: a key of the config, a name in the checkpoint, or a pass and the nodes it replaced. */
export type Origin =
  | { readonly kind: "config"; readonly key: string }
  | { readonly kind: "weight"; readonly name: string }
  | { readonly kind: "pass"; readonly pass: string; readonly from: readonly string[] }
  | { readonly kind: "text" };

type Operands<Names extends readonly string[]> = {
  readonly [N in Names[number] as N extends `${string}?` | `${string}*` ? never : N]: Value;
} & {
  readonly [N in Names[number] as N extends `${infer Base}?` ? Base : never]?: Value | undefined;
} & {
  readonly [N in Names[number] as N extends `${infer Base}*` ? Base : never]: readonly Value[];
};

type AttrType<K extends AttrKind> = K extends keyof AttrKinds ? AttrKinds[K] : never;
type Attrs<A extends { readonly [name: string]: AttrKind }> = {
  readonly [N in keyof A as A[N] extends `${string}?` ? never : N]: AttrType<A[N]>;
} & {
  readonly [N in keyof A as A[N] extends `${string}?` ? N : never]?: A[N] extends `${infer K}?`
    ? K extends keyof AttrKinds
      ? AttrKinds[K]
      : never
    : never;
};

export type OperandsOf<K extends OpName> = Operands<(typeof OPS)[K]["operands"]>;
export type AttrsOf<K extends OpName> = Attrs<(typeof OPS)[K]["attrs"]>;

export interface NodeOf<K extends OpName> {
  readonly op: K;
  readonly operands: OperandsOf<K>;
  readonly attrs: AttrsOf<K>;
  readonly results: readonly Value[];
  readonly origin: Origin;
}
/** The union over all ops; `switch (node.op)` narrows operands and attributes. */
export type Node = { [K in OpName]: NodeOf<K> }[OpName];

/** A parameter: what the runtime provides (ids, positions, ...) or a KV cache of a layer. */
export interface Param {
  readonly name: string;
  readonly value: Value;
}

export interface Graph {
  readonly name: string;
  readonly params: readonly Param[];
  readonly nodes: readonly Node[];
  /** Named results, in order. */
  readonly returns: readonly Param[];
  readonly bounds: SymbolBounds;
}

/** Operand values in the order of the op table, variadic ones flattened, absent ones left out. */
export function operandValues(node: Node): readonly Value[] {
  return operandList(node.op, node.operands as LooseOperands);
}

/** The result of a node that has one, the first of one that has several. */
export function resultOf(node: Node): Value {
  const [first] = node.results;
  if (!first) throw bug(`${node.op} has no results`);
  return first;
}

export type LooseOperands = { readonly [name: string]: Value | readonly Value[] | undefined };
export type LooseAttrs = { readonly [name: string]: AttrValue | undefined };

/** Operands with each value replaced; absent ones stay absent. */
export function mapOperands(operands: LooseOperands, map: (value: Value) => Value): LooseOperands {
  const mapped: { [name: string]: Value | readonly Value[] } = {};
  for (const [name, entry] of Object.entries(operands)) {
    if (entry !== undefined) mapped[name] = Array.isArray(entry) ? entry.map(map) : map(entry as Value);
  }
  return mapped;
}

export function baseName(operand: string): string {
  return operand.replace(/[?*]$/, "");
}

function isMany(entry: Value | readonly Value[]): entry is readonly Value[] {
  return Array.isArray(entry);
}

function operandList(op: OpName, operands: LooseOperands): Value[] {
  const values: Value[] = [];
  for (const name of opDef(op).operands) {
    const entry = operands[baseName(name)];
    if (entry === undefined) continue;
    if (isMany(entry)) values.push(...entry);
    else values.push(entry);
  }
  return values;
}

/** Result types of an op on these operands; throws `TypeMismatch`. `stated` is for ops that carry their result types (weight, launch, buffer). */
export function inferTypes(op: OpName, operands: LooseOperands, attrs: LooseAttrs, stated: readonly Type[]): readonly Type[] {
  const def: OpDef = opDef(op);
  const get = (name: string): Value | readonly Value[] | undefined => operands[name];
  const asTensor = (value: Value, name: string): TensorType => {
    if (value.type.kind !== "tensor") throw new TypeMismatch(`${name} must be a tensor`);
    return value.type;
  };
  const single = (name: string): Value => {
    const entry = get(name);
    if (entry === undefined || isMany(entry)) throw new TypeMismatch(`operand ${name} is missing`);
    return entry;
  };
  const attr = (name: string): AttrValue => {
    const value = attrs[name];
    if (value === undefined) throw new TypeMismatch(`attribute ${name} is missing`);
    return value;
  };
  const args: InferArgs = {
    one: (name) => asTensor(single(name), name),
    maybe: (name) => {
      const entry = get(name);
      return entry === undefined || isMany(entry) ? undefined : asTensor(entry, name);
    },
    many: (name) => {
      const entry = get(name);
      if (entry === undefined || !isMany(entry)) throw new TypeMismatch(`operand ${name} is missing`);
      return entry.map((value) => asTensor(value, name));
    },
    any: (name) => single(name).type,
    int: (name) => attr(name) as number,
    ints: (name) => attr(name) as readonly number[],
    dtype: (name) => attr(name) as TensorType["dtype"],
    layout: (name) => attr(name) as TensorType["layout"],
    stated,
  };
  return def.infer(args);
}

/** A copy without absent entries; lists and records inside are copied and frozen as well. */
function frozen(entries: LooseOperands | LooseAttrs): { readonly [name: string]: unknown } {
  const copy: { [name: string]: unknown } = {};
  for (const [name, entry] of Object.entries(entries)) if (entry !== undefined) copy[name] = frozenEntry(entry);
  return Object.freeze(copy);
}

function frozenEntry(entry: Value | readonly Value[] | AttrValue): unknown {
  if (Array.isArray(entry)) return Object.freeze([...entry]);
  return typeof entry === "object" ? Object.freeze(Object.isFrozen(entry) ? entry : { ...entry }) : entry;
}

/** Makes the values and nodes of one graph, in order. Names are free text for people; ids count up. */
export class Builder {
  readonly #params: Param[] = [];
  readonly #nodes: Node[] = [];
  readonly #returns: Param[] = [];
  #next = 0;
  #origin: Origin = { kind: "text" };

  constructor(
    readonly name: string,
    readonly bounds: SymbolBounds = {},
  ) {}

  /** Origin given to the nodes that follow. */
  at(origin: Origin): this {
    this.#origin = Object.freeze(origin);
    return this;
  }

  param(name: string, type: Type): Value {
    const value = this.#value(type);
    this.#params.push(Object.freeze({ name, value }));
    return value;
  }

  /** A tensor of the checkpoint. */
  weight(name: string, type: TensorType): Value {
    return this.nodeLoose("weight", {}, { name }, [type], Object.freeze({ kind: "weight", name })).results[0] as Value;
  }

  /** Adds a node; result types are inferred, or `stated` for ops that carry them. */
  node<K extends OpName>(op: K, operands: OperandsOf<K>, attrs: AttrsOf<K>, stated: readonly Type[] = []): NodeOf<K> {
    return this.nodeLoose(op, operands as LooseOperands, attrs as LooseAttrs, stated) as unknown as NodeOf<K>;
  }

  /** As `node`, for code that handles any op. Operands and attributes are checked by the verifier. */
  nodeLoose(op: OpName, operands: LooseOperands, attrs: LooseAttrs, stated: readonly Type[] = [], origin: Origin = this.#origin): Node {
    return this.nodeUnchecked(op, operands, attrs, inferTypes(op, operands, attrs, stated), origin);
  }

  /** As `nodeLoose` with the result types taken as they are, right or wrong: for the parser, whose results the verifier judges. */
  nodeUnchecked(op: OpName, operands: LooseOperands, attrs: LooseAttrs, types: readonly Type[], origin: Origin = this.#origin): Node {
    const results = Object.freeze(types.map((type) => this.#value(type)));
    const node = Object.freeze({ op, operands: frozen(operands), attrs: frozen(attrs), results, origin }) as unknown as Node;
    this.#nodes.push(node);
    return node;
  }

  /** As `node`, for ops with one result. */
  value<K extends OpName>(op: K, operands: OperandsOf<K>, attrs: AttrsOf<K>): Value {
    const node = this.node(op, operands, attrs);
    if (node.results.length !== 1) throw bug(`${op} has ${node.results.length} results`);
    return node.results[0] as Value;
  }

  returns(name: string, value: Value): void {
    this.#returns.push(Object.freeze({ name, value }));
  }

  finish(): Graph {
    return Object.freeze({
      name: this.name,
      params: Object.freeze(this.#params),
      nodes: Object.freeze(this.#nodes),
      returns: Object.freeze(this.#returns),
      bounds: this.bounds,
    });
  }

  #value(type: Type): Value {
    return Object.freeze({ id: this.#next++ as ValueId, type });
  }
}
