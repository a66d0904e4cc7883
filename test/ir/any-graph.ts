/** Graphs that need not mean anything: every op, attribute kind, type and name that the text form must carry. */

import fc from "fast-check";
import { Builder, baseName, type Graph, type LooseAttrs, type LooseOperands, type Value } from "../../src/ir/graph.js";
import { type AttrKind, type AttrValue, OP_NAMES, type OpDef, type OpName, opDef } from "../../src/ir/ops.js";
import { type Dim, DTYPES, type DType, kvCache, LAYOUTS, type Layout, SYMBOLS, sym, type Type, tensor } from "../../src/ir/types.js";

/** Checkpoints name their tensors as they like. */
const hostile = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.constantFrom(
    'a"b',
    "a\nb",
    "\0",
    "*/",
    "\x24{x}",
    "\u2028",
    "\ud800",
    "",
    "0",
    "_",
    "return",
    "NaN",
    "%0",
    "// no",
    "__proto__",
    "a.b",
    "a..b",
    "kv0",
  ),
);
const dtype = fc.constantFrom(...(Object.keys(DTYPES) as DType[]));
const layout = fc.constantFrom(...(Object.keys(LAYOUTS) as Layout[]));
const whole = fc.integer({ min: -5, max: 1 << 20 });
const number = fc.oneof(fc.double(), whole, fc.constantFrom(1e-5, 1e-12, -0, 1e300, 5e-324, 500000, 1e21));
const dim: fc.Arbitrary<Dim> = fc.oneof(
  whole,
  fc
    .tuple(fc.constantFrom(...SYMBOLS), fc.integer({ min: 1, max: 4 }), fc.integer({ min: -2, max: 3 }))
    .map(([symbol, times, plus]) => sym(symbol, times, plus)),
);
const encoding = fc.oneof(
  fc.constant({ kind: "plain" } as const),
  fc.record({ kind: fc.constant("scheme" as const), scheme: hostile, group: whole, axis: whole }),
);
const shard = fc.option(fc.record({ axis: whole, parts: whole }));
const type: fc.Arbitrary<Type> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc
      .tuple(dtype, fc.array(dim, { maxLength: 3 }), fc.record({ encoding, layout, shard }))
      .map(([d, shape, more]) => tensor(d, shape, more)),
  },
  { weight: 1, arbitrary: fc.tuple(dtype, whole, whole).map(([d, heads, size]) => kvCache(d, heads, size)) },
);
const flat = fc.oneof(number, hostile, fc.boolean(), fc.array(whole, { maxLength: 3 }));
const record = fc.array(fc.tuple(hostile, flat), { maxLength: 3 }).map((entries) => Object.fromEntries(entries));

function attr(kind: AttrKind): fc.Arbitrary<AttrValue> {
  switch (kind.replace("?", "")) {
    case "int":
      return whole;
    case "float":
      return number;
    case "bool":
      return fc.boolean();
    case "ints":
      return fc.array(whole, { maxLength: 4 });
    case "dtype":
      return dtype;
    case "layout":
      return layout;
    case "record":
      return record;
    default:
      return hostile;
  }
}

interface NodePlan {
  readonly op: OpName;
  /** One number an operand, taken modulo the values there are; a variadic operand takes what is left. */
  readonly operands: readonly number[];
  readonly present: boolean;
  readonly attrs: LooseAttrs;
  readonly results: readonly Type[];
}

const nodePlan: fc.Arbitrary<NodePlan> = fc.constantFrom(...OP_NAMES).chain((op) => {
  const def: OpDef = opDef(op);
  const attrs = Object.fromEntries(Object.entries(def.attrs).map(([name, kind]) => [name, attr(kind)]));
  return fc.record({
    op: fc.constant(op),
    operands: fc.array(fc.nat(), { minLength: def.operands.length, maxLength: def.operands.length + 2 }),
    present: fc.boolean(),
    attrs: fc.record(attrs) as fc.Arbitrary<LooseAttrs>,
    results: fc.array(type, { maxLength: 3 }),
  });
});

export const anyGraph: fc.Arbitrary<Graph> = fc
  .record({
    name: hostile,
    params: fc.uniqueArray(fc.tuple(hostile, type), { minLength: 1, maxLength: 4, selector: ([name]) => name }),
    nodes: fc.array(nodePlan, { maxLength: 8 }),
    returns: fc.array(fc.tuple(hostile, fc.nat()), { maxLength: 3 }),
    bounds: fc.dictionary(fc.constantFrom(...SYMBOLS), fc.record({ min: whole, max: whole })),
  })
  .map(({ name, params, nodes, returns, bounds }) => {
    const builder = new Builder(name, bounds);
    const values: Value[] = params.map(([param, paramType]) => builder.param(param, paramType));
    const pick = (n: number) => values[n % values.length] as Value;
    for (const { op, operands, present, attrs, results } of nodes) {
      const made = builder.nodeUnchecked(op, operandsOf(op, operands.map(pick), present), attrs, results);
      values.push(...made.results);
    }
    for (const [returned, n] of returns) builder.returns(returned, pick(n));
    return builder.finish();
  });

function operandsOf(op: OpName, picks: Value[], present: boolean): LooseOperands {
  const operands: { [name: string]: Value | readonly Value[] } = {};
  for (const name of opDef(op).operands) {
    if (name.endsWith("*")) operands[baseName(name)] = picks.splice(0);
    else if (present || !name.endsWith("?")) operands[baseName(name)] = picks.shift() as Value;
  }
  return operands;
}
