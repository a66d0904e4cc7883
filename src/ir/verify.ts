/**
 * The one verifier of all levels: a graph that passes it means something. Ops are legal at the level, operands and attributes are those of
 * the table, result types are what the op gives, values are defined before use, and a cache is used up once and never read stale.
 */

import { Diagnostic } from "../diagnostics.js";
import { consumedCaches, launchedOp } from "./analysis.js";
import { baseName, type Graph, inferTypes, type LooseAttrs, type LooseOperands, type Node, operandValues, type Value } from "./graph.js";
import {
  type AttrKind,
  type AttrRecord,
  type AttrValue,
  hasTrait,
  isOpName,
  LEVELS,
  type Level,
  levelIndex,
  type OpDef,
  type OpName,
  opDef,
  TypeMismatch,
} from "./ops.js";
import type { Parsed } from "./parse.js";
import { nodePrinter, placeInText, printType } from "./print.js";
import { type Dim, DTYPES, LAYOUTS, SYMBOLS, type SymbolBounds, sameType, type Type } from "./types.js";

/** Throws a Diagnostic with the line of the first node that is wrong: in the text that was read, or in the one that `print` writes. */
export function verify(graph: Graph, level: Level, source?: Pick<Parsed, "file" | "places">): void {
  new Verifier(graph, level, source).run();
}

/** The lowest level that allows every op of a graph. */
export function levelOf(graph: Graph): Level {
  const index = graph.nodes.reduce((level, node) => Math.max(level, levelIndex(opDef(node.op).level)), 0);
  return LEVELS[index] as Level;
}

class Verifier {
  readonly #defined = new Set<Value>();
  /** Cache values that an effect has taken over, and by whom. */
  readonly #consumed = new Map<Value, Node>();
  readonly #weights = new Set<Value>();

  constructor(
    private readonly graph: Graph,
    private readonly level: Level,
    private readonly source: Pick<Parsed, "file" | "places"> | undefined,
  ) {}

  run(): void {
    const { graph } = this;
    this.#checkBounds();
    this.#checkNames("parameter", graph.params);
    for (const { name, value } of graph.params) {
      this.#checkType(value.type, `parameter ${name}`);
      this.#define(value);
    }
    for (const node of graph.nodes) this.#checkNode(node);
    this.#checkNames("result", graph.returns);
    for (const { name, value } of graph.returns) {
      if (!this.#defined.has(value)) throw this.#fail("ir-undefined-value", `returns "${name}", which is not defined`);
      if (this.#consumed.has(value))
        throw this.#fail("ir-stale-cache", `returns "${name}", a state of the cache that a later append has replaced`);
    }
  }

  #checkNode(node: Node): void {
    if (!isOpName(node.op)) throw this.#fail("ir-unknown-op", `there is no op "${String((node as { op: unknown }).op)}"`);
    const def: OpDef = opDef(node.op);
    if (levelIndex(def.level) > levelIndex(this.level)) {
      throw this.#fail("ir-level", `${node.op} belongs to the level ${def.level}, the graph is at ${this.level}`, node);
    }
    this.#checkOperands(node, def);
    this.#checkAttrs(node, node.op, node.attrs as LooseAttrs);
    this.#checkResults(node, def);
    this.#checkCaches(node);
    for (const result of node.results) this.#define(result, node);
    if (hasTrait(node.op, "weight")) for (const result of node.results) this.#weights.add(result);
  }

  #checkOperands(node: Node, def: OpDef): void {
    const operands = node.operands as LooseOperands;
    const known = new Map(def.operands.map((name) => [baseName(name), name]));
    for (const name of Object.keys(operands))
      if (!known.has(name)) throw this.#fail("ir-operand", `${node.op} has no operand "${name}"`, node);
    for (const [name, declared] of known) {
      const entry = operands[name];
      if (entry === undefined ? !declared.endsWith("?") : Array.isArray(entry) !== declared.endsWith("*")) {
        throw this.#fail(
          "ir-operand",
          `operand ${name} of ${node.op} must be ${declared.endsWith("*") ? "a list of values" : "one value"}`,
          node,
        );
      }
    }
    for (const value of operandValues(node)) {
      if (!this.#defined.has(value)) throw this.#fail("ir-undefined-value", `${node.op} reads a value that is not defined before it`, node);
      if (hasTrait(node.op, "weight") && !this.#weights.has(value)) {
        throw this.#fail("ir-weight-operand", `${node.op} computes weights from weights, this operand is none`, node);
      }
    }
  }

  /** Of a node, or of the op that a launch stands for. */
  #checkAttrs(node: Node, op: OpName, attrs: LooseAttrs): void {
    const def: OpDef = opDef(op);
    for (const [name, value] of Object.entries(attrs)) {
      const kind = Object.hasOwn(def.attrs, name) ? def.attrs[name] : undefined;
      if (!kind) throw this.#fail("ir-attribute", `${op} has no attribute "${name}"`, node);
      if (value !== undefined && !isKind(value, kind)) {
        throw this.#fail("ir-attribute", `attribute ${name} of ${op} is ${JSON.stringify(value)}, expected ${kind.replace("?", "")}`, node);
      }
    }
    for (const [name, kind] of Object.entries(def.attrs)) {
      if (attrs[name] === undefined && !kind.endsWith("?")) throw this.#fail("ir-attribute", `${op} lacks its attribute ${name}`, node);
    }
  }

  #checkResults(node: Node, def: OpDef): void {
    const found = node.results.map((result) => result.type);
    if (!def.results.some((name) => name.endsWith("*")) && found.length !== def.results.length) {
      throw this.#fail("ir-results", `${node.op} has ${found.length} results, expected ${def.results.length}`, node);
    }
    for (const type of found) this.#checkType(type, `the result of ${node.op}`, node);
    const expected = this.#inferredTypes(node, found);
    if (expected.length !== found.length)
      throw this.#fail("ir-results", `${node.op} has ${found.length} results, expected ${expected.length}`, node);
    for (const [i, type] of found.entries()) {
      const inferred = expected[i] as Type;
      if (!sameType(type, inferred))
        throw this.#fail("ir-type", `result ${i} of ${node.op} is ${printType(type)}, expected ${printType(inferred)}`, node);
    }
  }

  /** What the op gives on these operands; a launch gives what its op gives. */
  #inferredTypes(node: Node, found: readonly Type[]): readonly Type[] {
    try {
      if (node.op !== "launch") return inferTypes(node.op, node.operands as LooseOperands, node.attrs as LooseAttrs, found);
      const { op, present } = node.attrs;
      if (!isOpName(op)) throw new TypeMismatch(`there is no op "${op}" to launch`);
      if (present.length !== opDef(op).operands.length)
        throw new TypeMismatch(`present has ${present.length} entries for the ${opDef(op).operands.length} operands of ${op}`);
      const { operands, attrs } = launchedOp(node, opDef(op).operands);
      this.#checkAttrs(node, op, attrs);
      return inferTypes(op, operands, attrs, found);
    } catch (error) {
      if (error instanceof TypeMismatch) throw this.#fail("ir-type", `${node.op}: ${error.message}`, node);
      throw error;
    }
  }

  #checkCaches(node: Node): void {
    for (const value of operandValues(node)) {
      const taker = this.#consumed.get(value);
      if (taker) throw this.#fail("ir-stale-cache", `${node.op} reads a state of the cache that ${taker.op} has replaced`, node);
    }
    const caches = consumedCaches(node);
    for (const cache of caches) this.#consumed.set(cache, node);
    if (new Set(caches).size !== caches.length) throw this.#fail("ir-stale-cache", `${node.op} takes over the same cache twice`, node);
  }

  #checkBounds(): void {
    for (const [symbol, { min, max }] of Object.entries(this.graph.bounds)) {
      if (!SYMBOLS.some((known) => known === symbol) || !Number.isInteger(min) || !Number.isInteger(max) || min < 0 || max < min) {
        throw this.#fail("ir-bounds", `bounds of ${symbol} are ${min}..${max}, expected whole numbers in order`);
      }
    }
  }

  #checkType(type: Type, what: string, node?: Node): void {
    const sizes: readonly Dim[] = type.kind === "kv" ? [type.heads, type.headDim] : type.shape;
    for (const size of sizes) {
      const numbers = typeof size === "number" ? [size] : [size.times, size.plus + 1];
      if (!numbers.every((n) => Number.isSafeInteger(n)) || (numbers[0] as number) < 1)
        throw this.#fail("ir-type", `${what} is ${printType(type)}: sizes must be whole and at least 1`, node);
      if (typeof size !== "number" && !(this.graph.bounds as SymbolBounds)[size.symbol]) {
        throw this.#fail("ir-bounds", `${what} is ${printType(type)}, but ${size.symbol} has no bounds`, node);
      }
    }
    if (type.kind === "tensor" && type.shard && !(type.shard.axis >= 0 && type.shard.axis < type.shape.length && type.shard.parts >= 1)) {
      throw this.#fail("ir-type", `${what} is ${printType(type)}: it has no such axis to share out`, node);
    }
  }

  #checkNames(what: string, entries: readonly { readonly name: string }[]): void {
    const seen = new Set<string>();
    for (const { name } of entries) {
      if (seen.has(name)) throw this.#fail("ir-name", `two ${what}s are called "${name}"`);
      seen.add(name);
    }
  }

  #define(value: Value, node?: Node): void {
    if (this.#defined.has(value)) throw this.#fail("ir-ssa", "a value is defined twice", node);
    this.#defined.add(value);
  }

  #fail(code: string, message: string, node?: Node): Diagnostic {
    const file = this.source?.file ?? `@${this.graph.name}`;
    if (!node) return new Diagnostic({ code, message, place: `${file}:1:1` });
    const { line, column } = this.source?.places.get(node) ?? placeInText(this.graph, node);
    return new Diagnostic({ code, message, place: `${file}:${line}:${column}: ${nodePrinter(this.graph)(node)}` });
  }
}

function isKind(value: AttrValue, kind: AttrKind): boolean {
  switch (kind.replace("?", "")) {
    case "int":
      return Number.isSafeInteger(value);
    case "float":
      return typeof value === "number" && Number.isFinite(value);
    case "string":
      return typeof value === "string";
    case "bool":
      return typeof value === "boolean";
    case "ints":
      return isInts(value);
    case "dtype":
      return typeof value === "string" && Object.hasOwn(DTYPES, value);
    case "layout":
      return typeof value === "string" && Object.hasOwn(LAYOUTS, value);
    case "record":
      return typeof value === "object" && !Array.isArray(value) && Object.values(value as AttrRecord).every(isFlat);
    default:
      return false;
  }
}

function isInts(value: unknown): boolean {
  return Array.isArray(value) && value.every((entry) => Number.isSafeInteger(entry));
}

function isFlat(value: unknown): boolean {
  return typeof value === "string" || typeof value === "boolean" || (typeof value === "number" && Number.isFinite(value)) || isInts(value);
}
