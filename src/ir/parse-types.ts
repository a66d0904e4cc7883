/** The parts of the text form below a node: types and attributes. */

import type { LooseAttrs } from "./graph.js";
import { type AttrKind, type AttrRecord, type AttrValue, type OpDef, type OpName, opDef } from "./ops.js";
import { type Reader, readMember } from "./reader.js";
import {
  type Dim,
  DTYPES,
  type DType,
  type Encoding,
  kvCache,
  LAYOUTS,
  type Layout,
  PLAIN,
  type Shard,
  SYMBOLS,
  sym,
  type Type,
  tensor,
} from "./types.js";

const DTYPE_NAMES = Object.keys(DTYPES) as DType[];
const LAYOUT_NAMES = Object.keys(LAYOUTS) as Layout[];

export function readType(reader: Reader): Type {
  if (reader.skip("kv", "name")) {
    reader.sign("<");
    const dtype = readMember(reader, DTYPE_NAMES, "an element type");
    reader.sign("[");
    const heads = reader.number("heads");
    reader.sign(",");
    const headDim = reader.number("the size of a head");
    reader.sign("]");
    reader.sign(">");
    return kvCache(dtype, heads, headDim);
  }
  const dtype = readMember(reader, DTYPE_NAMES, "a type");
  const shape: Dim[] = [];
  reader.list("[", "]", () => shape.push(readDim(reader)));
  const encoding = reader.skip("<") ? readEncoding(reader) : PLAIN;
  const layout = reader.peek("at") ? readLayout(reader) : "row";
  const shard = reader.skip("shard", "name") ? readShard(reader) : null;
  return tensor(dtype, shape, { encoding, layout, shard });
}

function readDim(reader: Reader): Dim {
  let times = 1;
  if (reader.peek("number") || reader.peek("name", "NaN")) {
    const size = reader.number("a size");
    if (!reader.skip("*")) return size;
    times = size;
  }
  const symbol = readMember(reader, SYMBOLS, "a size or a dim symbol");
  if (reader.skip("+")) return sym(symbol, times, reader.number("a number"));
  // `T-1` reads as the symbol and a negative number.
  const minus = reader.peek("number") && reader.next.text.startsWith("-");
  return sym(symbol, times, minus ? reader.number("a number") : 0);
}

function readEncoding(reader: Reader): Encoding {
  const scheme = reader.label("the name of a scheme");
  reader.sign(",");
  reader.word("group");
  const group = reader.number("the size of a group");
  reader.sign(",");
  reader.word("axis");
  const axis = reader.number("an axis");
  reader.sign(">");
  return Object.freeze({ kind: "scheme", scheme, group, axis });
}

function readLayout(reader: Reader): Layout {
  const token = reader.take("at", "a layout");
  const layout = LAYOUT_NAMES.find((name) => name === token.text);
  if (!layout) throw reader.fail(`found the layout "${token.text}", expected one of ${LAYOUT_NAMES.join(", ")}`, token);
  return layout;
}

function readShard(reader: Reader): Shard {
  reader.sign("(");
  reader.word("axis");
  const axis = reader.number("an axis");
  reader.sign(",");
  reader.word("parts");
  const parts = reader.number("the number of parts");
  reader.sign(")");
  return Object.freeze({ axis, parts });
}

export function readAttrs(reader: Reader, op: OpName): LooseAttrs {
  const def: OpDef = opDef(op);
  const attrs: { [name: string]: AttrValue } = {};
  reader.list("{", "}", () => {
    const token = reader.take("name", "the name of an attribute");
    const kind = Object.hasOwn(def.attrs, token.text) ? def.attrs[token.text] : undefined;
    if (!kind) throw reader.fail(`${op} has no attribute "${token.text}"`, token, `it has ${Object.keys(def.attrs).join(", ") || "none"}`);
    if (Object.hasOwn(attrs, token.text)) throw reader.fail(`${token.text} is given twice`, token);
    reader.sign("=");
    attrs[token.text] = readAttr(reader, kind);
  });
  return attrs;
}

function readAttr(reader: Reader, kind: AttrKind): AttrValue {
  if (kind.startsWith("dtype")) return readMember(reader, DTYPE_NAMES, "an element type");
  if (kind.startsWith("layout")) return readMember(reader, LAYOUT_NAMES, "a layout");
  if (kind.startsWith("record")) return readRecord(reader);
  return readPlain(reader);
}

function readPlain(reader: Reader): number | string | boolean | readonly number[] {
  if (reader.peek("string")) return reader.take("string", "a string").text;
  for (const word of ["true", "false"]) if (reader.skip(word, "name")) return word === "true";
  if (!reader.peek("sign", "[")) return reader.number("a value");
  const numbers: number[] = [];
  reader.list("[", "]", () => numbers.push(reader.number("a number")));
  return Object.freeze(numbers);
}

function readRecord(reader: Reader): AttrRecord {
  const entries = new Map<string, AttrRecord[string]>();
  reader.list("{", "}", () => {
    const place = reader.next;
    const key = reader.label("a key");
    if (entries.has(key)) throw reader.fail(`${JSON.stringify(key)} is given twice`, place);
    reader.sign(":");
    entries.set(key, readPlain(reader));
  });
  return Object.freeze(Object.fromEntries(entries));
}
