/** Runs a graph on values: slow and obvious. Caches among the inputs are changed in place. */

import { bug } from "../diagnostics.js";
import { baseName, type Graph, type LooseOperands, type Node, type Value } from "../ir/graph.js";
import { hasTrait, opDef } from "../ir/ops.js";
import { type Dim, type DimSymbol, evalDim, type Type } from "../ir/types.js";
import { KvStore } from "./kv.js";
import type { Environment, RefValue } from "./meaning.js";
import { applyOp, type LooseRefOperands } from "./ops.js";
import type { RefTensor } from "./tensor.js";

export type RefInputs = { readonly [name: string]: RefValue };
export type SymbolValues = { [K in DimSymbol]?: number };

/** Results by name. Inputs that the graph has no parameter for are left aside. */
export function evaluate(graph: Graph, inputs: RefInputs, environment: Environment): { [name: string]: RefValue } {
  return new Program(graph, environment).run(inputs);
}

/** A graph to be run several times: weight expressions are computed on the first run. */
export class Program {
  readonly #weights = new Map<Node, readonly RefValue[]>();

  constructor(
    readonly graph: Graph,
    private readonly environment: Environment,
  ) {}

  run(inputs: RefInputs): { [name: string]: RefValue } {
    const { graph } = this;
    const symbols: SymbolValues = {};
    const values = new Map<Value, RefValue>();
    for (const { name, value } of graph.params) {
      const given = Object.hasOwn(inputs, name) ? inputs[name] : undefined;
      if (!given) throw bug(`@${graph.name} has no input "${name}"`);
      bindSymbols(value.type, given, symbols);
      values.set(value, given);
    }
    for (const { name, value } of graph.params) checkValue(value.type, values.get(value) as RefValue, symbols, name);
    for (const node of graph.nodes) {
      const results = this.#run(node, values);
      for (const [i, result] of node.results.entries()) {
        const made = results[i];
        if (!made) throw bug(`the reference of ${node.op} gives ${results.length} results, not ${node.results.length}`);
        checkValue(result.type, made, symbols, node.op);
        values.set(result, made);
      }
    }
    return Object.fromEntries(graph.returns.map(({ name, value }) => [name, values.get(value) as RefValue]));
  }

  #run(node: Node, values: ReadonlyMap<Value, RefValue>): readonly RefValue[] {
    const known = this.#weights.get(node);
    if (known) return known;
    const results = applyOp(
      node.op,
      operandsOf(node, values),
      node.attrs,
      this.environment,
      node.results.map(({ type }) => type),
    );
    if (hasTrait(node.op, "weight")) this.#weights.set(node, results);
    return results;
  }
}

function operandsOf(node: Node, values: ReadonlyMap<Value, RefValue>): LooseRefOperands {
  const operands: { [name: string]: RefValue | readonly RefValue[] } = {};
  for (const name of opDef(node.op).operands.map(baseName)) {
    const entry = (node.operands as LooseOperands)[name];
    if (entry === undefined) continue;
    operands[name] = Array.isArray(entry) ? entry.map((value) => values.get(value) as RefValue) : (values.get(entry as Value) as RefValue);
  }
  return operands;
}

/** Learns T, S and C from the first input that has them alone. */
function bindSymbols(type: Type, value: RefValue, symbols: SymbolValues): void {
  if (type.kind === "kv" || value instanceof KvStore) return;
  for (const [i, dim] of type.shape.entries()) {
    if (typeof dim !== "number" && dim.times === 1 && symbols[dim.symbol] === undefined)
      symbols[dim.symbol] = (value.shape[i] ?? 0) - dim.plus;
  }
}

/** Holds every value to the type that the graph states. */
function checkValue(type: Type, value: RefValue, symbols: SymbolValues, what: string): void {
  if (type.kind === "kv" || value instanceof KvStore) {
    if (
      type.kind === "kv" &&
      value instanceof KvStore &&
      value.heads === type.heads &&
      value.headDim === type.headDim &&
      value.dtype === type.dtype
    )
      return;
    throw bug(`${what}: a cache of another kind than the graph says`);
  }
  const shape = type.shape.map((dim: Dim) => evalDim(dim, symbols));
  if (value.dtype === type.dtype && sameSizes(value, shape)) return;
  throw bug(`${what}: found ${value.dtype}[${value.shape.join(", ")}], the graph says ${type.dtype}[${shape.join(", ")}]`);
}

function sameSizes(value: RefTensor, shape: readonly number[]): boolean {
  return value.shape.length === shape.length && value.shape.every((size, i) => size === shape[i]);
}
