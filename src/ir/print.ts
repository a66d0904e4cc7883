/**
 * Graph to text. The form is that of parse.ts and `parse(print(g))` is `g`, origins aside, which are comments. Not here: what a graph means.
 *
 *     func @tail(%x: bf16[T, 1024], %r: bf16[T, 1024], %w: bf16[1024]) -> bf16[T, 1024] bounds {T: 1..512} {
 *       %0 = add %r, %x : bf16[T, 1024]
 *       %1 = rms_norm %0, %w {eps = 1e-5, dtype = bf16} : bf16[T, 1024]
 *       return %1
 *     }
 *
 * Values are numbered in order of definition and by themselves in each function; parameters keep their names. Several results or returns are
 * written as `(logits: f32[S, 384], kv0: ...)` and `return logits = %7, kv0 = %4`; a single return named `out` needs no name.
 * Names come from checkpoints and hold anything: what is no plain identifier is written as a JSON string.
 */

import { baseName, type Graph, type LooseAttrs, type LooseOperands, type Node, type Origin, type Param, type Value } from "./graph.js";
import { type AttrRecord, type AttrValue, type OpDef, opDef } from "./ops.js";
import type { Dim, Encoding, SymbolBounds, TensorType, Type } from "./types.js";

export interface PrintOptions {
  /** Say at the end of each line where the node comes from. */
  readonly origins?: boolean;
}

/** A place in text; both count from 1. */
export interface TextPlace {
  readonly line: number;
  readonly column: number;
}

/** Names that need no quotes. A value's name may also be a number, but then it is one that the printer gave. */
export const PLAIN_NAME = /^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*$/;

export function print(graph: Graph, options: PrintOptions = {}): string {
  return `${lines(graph, options).join("\n")}\n`;
}

/** Several functions, one after the other. */
export function printAll(graphs: readonly Graph[], options: PrintOptions = {}): string {
  return graphs.map((graph) => print(graph, options)).join("\n");
}

/** Gives the line that `print` writes for a node, without indent, to say which node a message is about. */
export function nodePrinter(graph: Graph): (node: Node) => string {
  let names: ReturnType<typeof valueNames> | undefined;
  return (node) => {
    // Most graphs have nothing to be said about them.
    names ??= valueNames(graph);
    return nodeText(node, names);
  };
}

/** Where `print` writes a node: the function's head is line 1, each node has one line after it. */
export function placeInText(graph: Graph, node: Node): TextPlace {
  return { line: graph.nodes.indexOf(node) + 2, column: 3 };
}

function lines(graph: Graph, options: PrintOptions): string[] {
  const names = valueNames(graph);
  const params = graph.params.map(({ name, value }) => `${valueName(name)}: ${printType(value.type)}`).join(", ");
  const body = graph.nodes.map((node) => `  ${nodeText(node, names)}${options.origins ? originComment(node) : ""}`);
  const head = `func @${quoted(graph.name)}(${params})${resultsText(graph.returns)}${boundsText(graph.bounds)} {`;
  return [head, ...body, `  ${returnText(graph.returns, names)}`, "}"];
}

function valueNames(graph: Graph): (value: Value) => string {
  const names = new Map<Value, string>();
  for (const { name, value } of graph.params) names.set(value, valueName(name));
  let next = 0;
  for (const node of graph.nodes) for (const result of node.results) names.set(result, `%${next++}`);
  // A value from elsewhere makes no sense in a graph, but a message about it must still print.
  return (value) => names.get(value) ?? `%undefined${value.id}`;
}

/** `%ids`; a name that looks like a number of ours is quoted. */
function valueName(name: string): string {
  return `%${quoted(name)}`;
}

function quoted(name: string): string {
  return PLAIN_NAME.test(name) ? name : printString(name);
}

/** A JSON string with everything escaped that could end a line or turn the text around. */
export function printString(text: string): string {
  return JSON.stringify(text).replace(
    /[\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

function nodeText(node: Node, names: (value: Value) => string): string {
  const results = node.results.map(names).join(", ");
  const types = node.results.map((result) => printType(result.type)).join(", ");
  const operands = operandsText(node, names);
  const attrs = attrsText(node);
  return `${results ? `${results} = ` : ""}${node.op}${operands ? ` ${operands}` : ""}${attrs ? ` ${attrs}` : ""}${types ? ` : ${types}` : ""}`;
}

/** Operands in the order of the table; `_` stands for an absent one when another follows. A variadic operand comes last. */
function operandsText(node: Node, names: (value: Value) => string): string {
  const operands = node.operands as LooseOperands;
  const texts: string[] = [];
  for (const name of opDef(node.op).operands) {
    const entry = operands[baseName(name)];
    if (entry === undefined) texts.push("_");
    else texts.push(...(Array.isArray(entry) ? entry : [entry as Value]).map(names));
  }
  while (texts.at(-1) === "_") texts.pop();
  return texts.join(", ");
}

/** Attributes in the order of the table, so that text does not depend on how a node was made. */
function attrsText(node: Node): string {
  const def: OpDef = opDef(node.op);
  const attrs = node.attrs as LooseAttrs;
  const texts: string[] = [];
  for (const [name, kind] of Object.entries(def.attrs)) {
    const value = attrs[name];
    if (value !== undefined) texts.push(`${name} = ${printAttr(value, kind.startsWith("dtype") || kind.startsWith("layout"))}`);
  }
  return texts.length ? `{${texts.join(", ")}}` : "";
}

function printAttr(value: AttrValue, bare: boolean): string {
  if (typeof value === "number") return printNumber(value);
  if (typeof value === "string") return bare ? value : printString(value);
  if (typeof value === "boolean") return String(value);
  if (Array.isArray(value)) return `[${value.map(printNumber).join(", ")}]`;
  const entries = Object.entries(value as AttrRecord).map(([key, entry]) => `${quoted(key)}: ${printAttr(entry, false)}`);
  return `{${entries.join(", ")}}`;
}

/** The shortest text that reads back as the same number: 1e-5, 0.25, 500000. */
export function printNumber(value: number): string {
  if (Object.is(value, -0)) return "-0";
  const plain = String(value).replace("e+", "e");
  const scientific = Number.isFinite(value) && value !== 0 ? value.toExponential().replace("e+", "e") : plain;
  return Math.abs(value) < 1e-2 && scientific.length < plain.length ? scientific : plain;
}

export function printType(type: Type): string {
  return type.kind === "kv" ? `kv<${type.dtype}[${type.heads}, ${type.headDim}]>` : printTensor(type);
}

/** `u8[1024, 512]<int4, group 64, axis 1>@panel64 shard(axis 0, parts 2)`; plain, row-major and whole are not written. */
function printTensor({ dtype, shape, encoding, layout, shard }: TensorType): string {
  const place = layout === "row" ? "" : `@${layout}`;
  const part = shard ? ` shard(axis ${shard.axis}, parts ${shard.parts})` : "";
  return `${dtype}[${shape.map(printDim).join(", ")}]${encodingText(encoding)}${place}${part}`;
}

function encodingText(encoding: Encoding): string {
  return encoding.kind === "plain" ? "" : `<${quoted(encoding.scheme)}, group ${encoding.group}, axis ${encoding.axis}>`;
}

/** `T`, `3*T`, `S+1`, 1024. */
export function printDim(dim: Dim): string {
  if (typeof dim === "number") return printNumber(dim);
  const times = dim.times === 1 ? "" : `${printNumber(dim.times)}*`;
  const plus = dim.plus === 0 ? "" : dim.plus > 0 ? `+${printNumber(dim.plus)}` : printNumber(dim.plus);
  return `${times}${dim.symbol}${plus}`;
}

function resultsText(returns: readonly Param[]): string {
  if (returns.length === 0) return "";
  if (isUnnamed(returns)) return ` -> ${printType(returns[0].value.type)}`;
  return ` -> (${returns.map(({ name, value }) => `${quoted(name)}: ${printType(value.type)}`).join(", ")})`;
}

function returnText(returns: readonly Param[], names: (value: Value) => string): string {
  if (isUnnamed(returns)) return `return ${names(returns[0].value)}`;
  return ["return", returns.map(({ name, value }) => `${quoted(name)} = ${names(value)}`).join(", ")].join(" ").trimEnd();
}

/** The name a sole return has when none is written. */
export const SOLE_RETURN = "out";

function isUnnamed(returns: readonly Param[]): returns is readonly [Param] {
  return returns.length === 1 && returns[0]?.name === SOLE_RETURN;
}

function boundsText(bounds: SymbolBounds): string {
  const texts = Object.entries(bounds).map(([symbol, { min, max }]) => `${symbol}: ${printNumber(min)}..${printNumber(max)}`);
  return texts.length ? ` bounds {${texts.join(", ")}}` : "";
}

function originComment(node: Node): string {
  const text = node.origin.kind === "weight" && node.op === "weight" ? "" : describeOrigin(node.origin);
  return text ? `  // ${text}` : "";
}

/** One line, whatever is in the names; empty for what was written as text. */
export function describeOrigin(origin: Origin): string {
  switch (origin.kind) {
    case "config":
      return `config ${sourceText(origin.key)}`;
    case "weight":
      return `weight ${sourceText(origin.name)}`;
    case "pass":
      return origin.from.length ? `${origin.pass} of ${origin.from.map(sourceText).join(", ")}` : origin.pass;
    case "text":
      return "";
  }
}

function sourceText(name: string): string {
  return /^[A-Za-z0-9_.*-]+$/.test(name) ? name : printString(name);
}
