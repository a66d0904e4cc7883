/**
 * Text to graph; the form is described in print.ts. Reading is about form only: types are taken as written and the verifier judges them, so
 * that a wrong graph can be read, and shown with the line where it goes wrong. Values may have any name and are numbered afresh in print.
 */

import { Diagnostic } from "../diagnostics.js";
import { Builder, baseName, type Graph, type Node, type Value } from "./graph.js";
import { type Token, tokenize } from "./lexer.js";
import { isOpName, OP_NAMES, type OpName, opDef } from "./ops.js";
import { readAttrs, readType } from "./parse-types.js";
import { SOLE_RETURN, type TextPlace } from "./print.js";
import { Reader, readMember } from "./reader.js";
import { type Bounds, type DimSymbol, SYMBOLS, sameType, type Type } from "./types.js";

/** A graph and where its nodes were read, for the verifier's messages. */
export interface Parsed {
  readonly graph: Graph;
  readonly file: string;
  readonly places: ReadonlyMap<Node, TextPlace>;
}

/** One function. `file` is for messages. */
export function parse(text: string, file = "text.ir"): Graph {
  return parseLocated(text, file).graph;
}

export function parseLocated(text: string, file = "text.ir"): Parsed {
  const parsed = parseAll(text, file);
  const [first, second] = parsed;
  if (!first) throw new Diagnostic({ code: "ir-syntax", message: "found no function, expected one", place: `${file}:1:1` });
  if (second) throw new Diagnostic({ code: "ir-syntax", message: `found ${parsed.length} functions, expected one`, place: file });
  return first;
}

/** All functions of a text, in order. */
export function parseAll(text: string, file = "text.ir"): Parsed[] {
  const reader = new Reader(tokenize(text, file), file);
  const parsed: Parsed[] = [];
  while (!reader.peek("end")) parsed.push(new FunctionParser(reader).parse());
  return parsed;
}

class FunctionParser {
  readonly #values = new Map<string, Value>();
  readonly #places = new Map<Node, TextPlace>();

  constructor(private readonly reader: Reader) {}

  parse(): Parsed {
    const { reader } = this;
    reader.word("func");
    const name = reader.take("at", "the function's name, @name").text;
    const params: { token: Token; type: Type }[] = [];
    reader.list("(", ")", () => {
      const token = reader.take("value", "a parameter, %name");
      reader.sign(":");
      params.push({ token, type: readType(reader) });
    });
    const returns = reader.skip("->") ? this.#readResults() : [];
    const builder = new Builder(name, this.#readBounds());
    for (const { token, type } of params) this.#define(token, builder.param(token.text, type));
    reader.sign("{");
    while (!reader.peek("name", "return")) this.#readNode(builder);
    this.#readReturn(builder, returns);
    reader.sign("}");
    return { graph: builder.finish(), file: reader.file, places: this.#places };
  }

  #readResults(): { name: string; type: Type }[] {
    const { reader } = this;
    if (!reader.peek("sign", "(")) return [{ name: SOLE_RETURN, type: readType(reader) }];
    const results: { name: string; type: Type }[] = [];
    reader.list("(", ")", () => {
      const name = reader.label("the name of a result");
      reader.sign(":");
      results.push({ name, type: readType(reader) });
    });
    return results;
  }

  #readBounds(): { [K in DimSymbol]?: Bounds } {
    const { reader } = this;
    const bounds: { [K in DimSymbol]?: Bounds } = {};
    if (!reader.skip("bounds", "name")) return bounds;
    reader.list("{", "}", () => {
      const symbol = readMember(reader, SYMBOLS, "a dim symbol");
      reader.sign(":");
      const min = reader.number("the least value");
      reader.sign("..");
      bounds[symbol] = { min, max: reader.number("the largest value") };
    });
    return bounds;
  }

  #readNode(builder: Builder): void {
    const { reader } = this;
    const results: Token[] = [];
    if (reader.peek("value")) {
      do results.push(reader.take("value", "a result, %name"));
      while (reader.skip(","));
      reader.sign("=");
    }
    const word = reader.take("name", 'an op or "return"');
    if (!isOpName(word.text)) throw reader.fail(`found "${word.text}", expected an op`, word, nearest(word.text));
    const operands = this.#readOperands(word.text, word);
    const attrs = reader.peek("sign", "{") ? readAttrs(reader, word.text) : {};
    const types: Type[] = [];
    if (reader.skip(":")) {
      do types.push(readType(reader));
      while (reader.skip(","));
    }
    if (types.length !== results.length)
      throw reader.fail(`found ${types.length} types for ${results.length} results of ${word.text}`, word);
    const node = builder.nodeUnchecked(word.text, operands, attrs, types);
    this.#places.set(node, results[0] ?? word);
    for (const [i, token] of results.entries()) this.#define(token, node.results[i] as Value);
  }

  #readOperands(op: OpName, place: Token): { [name: string]: Value | readonly Value[] } {
    const { reader } = this;
    const given: (Value | undefined)[] = [];
    if (reader.peek("value") || reader.peek("name", "_")) {
      do given.push(reader.skip("_", "name") ? undefined : this.#use(reader.take("value", "an operand, %name")));
      while (reader.skip(","));
    }
    const operands: { [name: string]: Value | readonly Value[] } = {};
    for (const name of opDef(op).operands) {
      if (name.endsWith("*")) {
        operands[baseName(name)] = Object.freeze(given.splice(0).filter((value) => value !== undefined));
      } else {
        const value = given.shift();
        if (value) operands[baseName(name)] = value;
        else if (!name.endsWith("?"))
          throw reader.fail(`${op} lacks its operand ${name}`, place, `${op} takes ${opDef(op).operands.join(", ") || "none"}`);
      }
    }
    if (given.length)
      throw reader.fail(`${op} has ${given.length} operands too many`, place, `${op} takes ${opDef(op).operands.join(", ") || "none"}`);
    return operands;
  }

  #readReturn(builder: Builder, declared: readonly { name: string; type: Type }[]): void {
    const { reader } = this;
    const place = reader.next;
    reader.word("return");
    const returned: { name: string; value: Value }[] = [];
    if (!reader.peek("sign", "}")) {
      do {
        const name = reader.peek("value") ? SOLE_RETURN : this.#readReturnName();
        returned.push({ name, value: this.#use(reader.take("value", "a value, %name")) });
      } while (reader.skip(","));
    }
    if (returned.length !== declared.length)
      throw reader.fail(`returns ${returned.length} values, the head says ${declared.length}`, place);
    for (const [i, { name, value }] of returned.entries()) {
      const result = declared[i] as { name: string; type: Type };
      if (name !== result.name) throw reader.fail(`returns "${name}" where the head says "${result.name}"`, place);
      if (!sameType(value.type, result.type)) throw reader.fail(`the type of "${name}" is not what the head says`, place);
      builder.returns(name, value);
    }
  }

  #readReturnName(): string {
    const name = this.reader.label("a name or a value");
    this.reader.sign("=");
    return name;
  }

  #define(token: Token, value: Value): void {
    if (this.#values.has(keyOf(token))) throw this.reader.fail(`%${token.text} is defined twice`, token);
    this.#values.set(keyOf(token), value);
  }

  #use(token: Token): Value {
    const value = this.#values.get(keyOf(token));
    if (!value) throw this.reader.fail(`%${token.text} is used before it is defined`, token);
    return value;
  }
}

/** A name is the same with quotes and without, but for numbers. */
function keyOf({ text, quoted }: Token): string {
  return `${quoted || !/^[0-9]/.test(text) ? "name" : "number"} ${text}`;
}

/** The op that was probably meant: the one that shares the longest start. */
function nearest(word: string): string | undefined {
  const shared = (name: string) => [...name].findIndex((c, i) => c !== word[i]);
  const found = OP_NAMES.map((name) => ({ name, length: shared(name) === -1 ? name.length : shared(name) })).sort(
    (a, b) => b.length - a.length,
  )[0];
  return found && found.length >= 2 ? `did you mean ${found.name}?` : undefined;
}
