/**
 * The one table of ops. Types, builder, printer, parser, verifier, reference interpreter and docs follow from it.
 * An op says at which level it becomes legal, its operands (`name?` may be absent, `name*` takes any number), its attributes,
 * how many results it has and how their types follow from the operands. What an op *means* is in src/reference.
 *
 * Rows: R stands for T (tokens), S (sequences) or k*T (token, chosen expert). Weights of a matmul are [N, K] (out, in).
 * `dtype` is the type that the result is rounded to, once, after f32 (reference: f64) arithmetic.
 */

import {
  type Dim,
  type DType,
  type kvCache,
  type Layout,
  sameDim,
  sameShape,
  sameType,
  scaleDim,
  sym,
  type TensorType,
  type Type,
  tensor,
} from "./types.js";

/** Each level allows the ops of those before it. */
export const LEVELS = ["model", "fused", "kernel", "plan"] as const;
export type Level = (typeof LEVELS)[number];

/** Flat data: the parameters of a kernel variant, or the attributes of the op that a launch stands for. */
export type AttrRecord = { readonly [key: string]: number | string | boolean | readonly number[] };

/** Attribute kinds and the TypeScript type of each. A `?` after the kind makes the attribute optional. */
export interface AttrKinds {
  int: number;
  float: number;
  string: string;
  bool: boolean;
  ints: readonly number[];
  dtype: DType;
  layout: Layout;
  record: AttrRecord;
}
export type AttrKind = keyof AttrKinds | `${keyof AttrKinds}?`;
export type AttrValue = AttrKinds[keyof AttrKinds];

export type Trait = "pure" | "weight" | "rowwise" | "view" | "commutative";
export type Traits = readonly Trait[];

export interface OpDef {
  readonly level: Level;
  readonly summary: string;
  readonly operands: readonly string[];
  readonly attrs: { readonly [name: string]: AttrKind };
  /** Names of the results; a `*` name stands for any number. */
  readonly results: readonly string[];
  /**
   * `pure`: no effect but its results. `weight`: computed from weights alone, folded into the packed file. `rowwise`: row i of each result
   * needs row i only of the operands that have as many rows. `view`: moves no data. `commutative`: the first two operands may change places.
   */
  readonly traits: Traits;
  /** Result types, or throws `TypeMismatch`. */
  readonly infer: (args: InferArgs) => readonly Type[];
}

/** What `infer` sees: operand types by name and attributes by name. */
export interface InferArgs {
  readonly one: (name: string) => TensorType;
  readonly maybe: (name: string) => TensorType | undefined;
  readonly many: (name: string) => readonly TensorType[];
  readonly any: (name: string) => Type;
  readonly int: (name: string) => number;
  readonly ints: (name: string) => readonly number[];
  readonly dtype: (name: string) => DType;
  readonly layout: (name: string) => Layout;
  /** Types of the results as written; only ops whose results can't be derived read it. */
  readonly stated: readonly Type[];
}

/** Operand or attribute that does not fit; the verifier adds the place. */
export class TypeMismatch extends Error {}

function expect(condition: boolean, message: string): void {
  if (!condition) throw new TypeMismatch(message);
}

function dims(type: TensorType, rank: number, what: string): readonly Dim[] {
  expect(type.shape.length === rank, `${what} has rank ${type.shape.length}, expected ${rank}`);
  return type.shape;
}

function num(dim: Dim | undefined, what: string): number {
  if (typeof dim !== "number") throw new TypeMismatch(`${what} must be a fixed size`);
  return dim;
}

function rowsCols(type: TensorType, what: string): [Dim, number] {
  const [rows, cols] = dims(type, 2, what);
  return [rows as Dim, num(cols, `the width of ${what}`)];
}

/** Axis along which weight expressions join: rows of a matrix (also inside a stack), elements of a vector. */
export function rowAxis(type: TensorType): number {
  return Math.max(0, type.shape.length - 2);
}

function withRows(type: TensorType, rows: number): TensorType {
  return tensor(
    type.dtype,
    type.shape.map((dim, i) => (i === rowAxis(type) ? rows : dim)),
    { encoding: type.encoding, shard: type.shard },
  );
}

function joinable(parts: readonly TensorType[]): number {
  const first = parts[0];
  if (!first) throw new TypeMismatch("needs at least one part");
  const axis = rowAxis(first);
  let rows = 0;
  for (const part of parts) {
    expect(part.dtype === first.dtype, `parts differ in dtype: ${part.dtype} and ${first.dtype}`);
    expect(
      part.shape.length === first.shape.length && part.shape.every((dim, i) => i === axis || sameDim(dim, first.shape[i] as Dim)),
      "parts differ in shape outside the joined axis",
    );
    rows += num(part.shape[axis], "the joined axis");
  }
  return rows;
}

function linearShape(x: TensorType, weight: TensorType, bias: TensorType | undefined): [Dim, number] {
  const [rows, k] = rowsCols(x, "x");
  const [n, weightK] = rowsCols(weight, "weight");
  expect(weightK === k, `x has width ${k}, weight takes ${weightK}`);
  if (bias) expect(sameShape(bias.shape, [n]), "bias must have one value a row of the weight");
  return [rows, num(n, "weight rows")];
}

function checkNorm(x: TensorType, norm: TensorType | undefined): void {
  if (norm) expect(sameShape(norm.shape, [rowsCols(x, "x")[1]]), "the norm must have one value a column of x");
}

/** Of logits, indices and weights. */
function routerTypes(x: TensorType, norm: TensorType, gate: TensorType, correction: TensorType | undefined, k: number): TensorType[] {
  checkNorm(x, norm);
  const [rows, experts] = linearShape(x, gate, correction);
  expect(k > 0 && k <= experts, `k = ${k} of ${experts} experts`);
  return [tensor("f32", [rows, experts]), tensor("i32", [rows, k]), tensor("f32", [rows, k])];
}

function moeFfnType(x: TensorType, gateUp: TensorType, down: TensorType, addend: TensorType | undefined, group: number): TensorType {
  const [rows, width] = rowsCols(x, "x");
  const [experts, n, k] = dims(gateUp, 3, "gate_up");
  expect(k === width && num(n, "gate_up rows") % (2 * group) === 0, "gate_up does not fit x and group");
  expect(sameShape(down.shape, [experts as Dim, width, num(n, "gate_up rows") / 2]), "down does not fit gate_up");
  const out = tensor("f32", [rows, width]);
  if (addend) expect(sameType(addend, out), "addend must be f32 like the result");
  return out;
}

function checkKv(cache: Type, kvHeads?: number, headDim?: number): asserts cache is ReturnType<typeof kvCache> {
  if (cache.kind !== "kv") throw new TypeMismatch("cache must be a kv value");
  if (kvHeads !== undefined) expect(cache.heads === kvHeads, `cache has ${cache.heads} heads, expected ${kvHeads}`);
  if (headDim !== undefined) expect(cache.headDim === headDim, `cache has head_dim ${cache.headDim}, expected ${headDim}`);
}

function checkPositions(positions: TensorType, rows: Dim): void {
  expect(sameShape(positions.shape, [rows, 3]) && positions.dtype === "i32", "positions must be i32[rows, 3]");
}

export const OPS = {
  /** A tensor of the checkpoint, under its name there. */
  weight: {
    level: "model",
    summary: "a tensor of the checkpoint",
    operands: [],
    attrs: { name: "string" },
    results: ["out"],
    traits: ["pure", "weight"],
    infer: ({ stated }) => stated,
  },
  /** Joins weights along their rows: q, k and v become one matrix. */
  concat_rows: {
    level: "model",
    summary: "joins weights along their rows",
    operands: ["parts*"],
    attrs: {},
    results: ["out"],
    traits: ["pure", "weight"],
    infer: ({ many }) => [withRows(many("parts")[0] as TensorType, joinable(many("parts")))],
  },
  /** Rows `start` .. `start + length` of a weight: q out of a fused qkv of a checkpoint. */
  slice_rows: {
    level: "model",
    summary: "some rows of a weight",
    operands: ["x"],
    attrs: { start: "int", length: "int" },
    results: ["out"],
    traits: ["pure", "weight"],
    infer: ({ one, int }) => {
      const x = one("x");
      const rows = num(x.shape[rowAxis(x)], "rows");
      expect(
        int("start") >= 0 && int("length") > 0 && int("start") + int("length") <= rows,
        `rows ${int("start")} + ${int("length")} lie outside ${rows}`,
      );
      return [withRows(x, int("length"))];
    },
  },
  /** The transpose of a weight that a checkpoint stores as [in, out]. */
  transpose: {
    level: "model",
    summary: "a weight with its last two axes swapped",
    operands: ["x"],
    attrs: {},
    results: ["out"],
    traits: ["pure", "weight"],
    infer: ({ one }) => {
      const x = one("x");
      expect(x.shape.length >= 2, "needs a matrix");
      const shape = [...x.shape.slice(0, -2), x.shape.at(-1) as Dim, x.shape.at(-2) as Dim];
      return [tensor(x.dtype, shape, { encoding: x.encoding })];
    },
  },
  /** Experts side by side: [N, K] x E -> [E, N, K]. */
  stack: {
    level: "model",
    summary: "weights of equal shape side by side on a new first axis",
    operands: ["parts*"],
    attrs: {},
    results: ["out"],
    traits: ["pure", "weight"],
    infer: ({ many }) => {
      const parts = many("parts");
      const first = parts[0];
      if (!first) throw new TypeMismatch("needs at least one part");
      for (const part of parts) expect(sameType(part, first), "parts differ in type");
      return [tensor(first.dtype, [parts.length, ...first.shape], { encoding: first.encoding })];
    },
  },
  /** Rows of a and b in turns of `group`: a panel then holds gate and up of the same columns. */
  interleave_rows: {
    level: "fused",
    summary: "rows of two weights in turns of `group`",
    operands: ["a", "b"],
    attrs: { group: "int" },
    results: ["out"],
    traits: ["pure", "weight"],
    infer: ({ one, int }) => {
      const a = one("a");
      expect(sameType(a, one("b")), "a and b differ in type");
      const rows = num(a.shape[rowAxis(a)], "rows");
      expect(int("group") > 0 && rows % int("group") === 0, `group ${int("group")} does not divide ${rows} rows`);
      return [withRows(a, 2 * rows)];
    },
  },
  /** out[i] = table[ids[i]]. Ids are in range: the engine refuses others. */
  embedding: {
    level: "model",
    summary: "out[i] = table[ids[i]]",
    operands: ["table", "ids"],
    attrs: { dtype: "dtype" },
    results: ["out"],
    traits: ["pure", "rowwise"],
    infer: ({ one, dtype }) => {
      const [, width] = rowsCols(one("table"), "table");
      const [rows] = dims(one("ids"), 1, "ids");
      expect(one("ids").dtype === "i32", "ids must be i32");
      return [tensor(dtype("dtype"), [rows as Dim, width])];
    },
  },
  /** y = x * rsqrt(mean(x^2) + eps) * weight over the last axis; rounded once, at the end. */
  rms_norm: {
    level: "model",
    summary: "y = x * rsqrt(mean(x^2) + eps) * weight",
    operands: ["x", "weight"],
    attrs: { eps: "float", dtype: "dtype" },
    results: ["out"],
    traits: ["pure", "rowwise"],
    infer: ({ one, dtype }) => {
      const [rows, width] = rowsCols(one("x"), "x");
      expect(sameShape(one("weight").shape, [width]), `weight must be [${width}]`);
      return [tensor(dtype("dtype"), [rows, width])];
    },
  },
  /** y = x . weight^T + bias. */
  linear: {
    level: "model",
    summary: "y = x . weight^T + bias",
    operands: ["x", "weight", "bias?"],
    attrs: { dtype: "dtype" },
    results: ["out"],
    traits: ["pure", "rowwise"],
    infer: ({ one, maybe, dtype }) => [tensor(dtype("dtype"), linearShape(one("x"), one("weight"), maybe("bias")))],
  },
  /** Columns of x in pieces of the given sizes. */
  split: {
    level: "model",
    summary: "columns of x in pieces of the given sizes",
    operands: ["x"],
    attrs: { sizes: "ints" },
    results: ["pieces*"],
    traits: ["pure", "rowwise", "view"],
    infer: ({ one, ints }) => {
      const [rows, width] = rowsCols(one("x"), "x");
      const sum = ints("sizes").reduce((a, b) => a + b, 0);
      expect(sum === width, `sizes add up to ${sum}, x has width ${width}`);
      return ints("sizes").map((size) => tensor(one("x").dtype, [rows, size]));
    },
  },
  /** silu(gate) * up, silu(z) = z * sigmoid(z). */
  swiglu: {
    level: "model",
    summary: "silu(gate) * up",
    operands: ["gate", "up"],
    attrs: { dtype: "dtype" },
    results: ["out"],
    traits: ["pure", "rowwise"],
    infer: ({ one, dtype }) => {
      expect(sameShape(one("gate").shape, one("up").shape), "gate and up differ in shape");
      return [tensor(dtype("dtype"), one("gate").shape)];
    },
  },
  /** a + b, rounded once to their type. */
  add: {
    level: "model",
    summary: "a + b",
    operands: ["a", "b"],
    attrs: {},
    results: ["out"],
    traits: ["pure", "rowwise", "commutative"],
    infer: ({ one }) => {
      expect(sameType(one("a"), one("b")), "a and b differ in type");
      return [one("a")];
    },
  },
  /** x rounded to dtype, to nearest, ties to even. */
  cast: {
    level: "model",
    summary: "x rounded to dtype",
    operands: ["x"],
    attrs: { dtype: "dtype" },
    results: ["out"],
    traits: ["pure", "rowwise"],
    infer: ({ one, dtype }) => [tensor(dtype("dtype"), one("x").shape)],
  },
  /**
   * Rotates adjacent pairs (2p, 2p+1) of each head by pos * theta^(-2p/head_dim). `sections` = [h, w, t] pair counts: pairs below h+w take
   * the h position where even and the w position where odd, the rest take t; text is [0, 0, head_dim/2]. Columns of positions are t, h, w.
   * The angle is a product of two f32 (position, and theta^(-2p/head_dim) rounded) rounded to f32, as the family was trained: an angle in
   * f64 is another one, by up to 0.004 rad at the far end of the context.
   */
  rope: {
    level: "model",
    summary: "rotates adjacent pairs of each head by its position",
    operands: ["x", "positions"],
    attrs: { heads: "int", head_dim: "int", theta: "float", sections: "ints", dtype: "dtype" },
    results: ["out"],
    traits: ["pure", "rowwise"],
    infer: ({ one, int, ints, dtype }) => {
      const [rows, width] = rowsCols(one("x"), "x");
      expect(width === int("heads") * int("head_dim"), `x has width ${width}, expected ${int("heads")} heads of ${int("head_dim")}`);
      const pairs = ints("sections").reduce((a, b) => a + b, 0);
      expect(ints("sections").length === 3 && pairs * 2 === int("head_dim"), "sections must be three counts that add up to head_dim / 2");
      checkPositions(one("positions"), rows);
      return [tensor(dtype("dtype"), one("x").shape)];
    },
  },
  /** Puts row i of k and v at slot slots[i] of the cache; gives the cache with them in it. */
  kv_append: {
    level: "model",
    summary: "puts rows of k and v at their slots of the cache",
    operands: ["cache", "k", "v", "slots"],
    attrs: {},
    results: ["cache"],
    traits: [],
    infer: ({ one, any }) => {
      const cache = any("cache");
      checkKv(cache);
      const [rows, width] = rowsCols(one("k"), "k");
      expect(sameShape(one("v").shape, one("k").shape), "k and v differ in shape");
      expect(width === cache.heads * cache.headDim, `k has width ${width}, the cache holds ${cache.heads} heads of ${cache.headDim}`);
      expect(sameShape(one("slots").shape, [rows]) && one("slots").dtype === "i32", "slots must be i32, one a row");
      return [cache];
    },
  },
  /**
   * softmax(q . K^T * scale) . V, causal in cache order: row r of sequence s sees entries 0 .. context[s] - rows(s) + r.
   * Query head j reads kv head floor(j / (heads / kv_heads)).
   */
  attention: {
    level: "model",
    summary: "causal attention over the paged cache",
    operands: ["q", "cache", "query_start", "context", "block_table"],
    attrs: { heads: "int", scale: "float", dtype: "dtype" },
    results: ["out"],
    traits: ["pure"],
    infer: ({ one, any, int, dtype }) => {
      const cache = any("cache");
      checkKv(cache);
      const [rows, width] = rowsCols(one("q"), "q");
      expect(width === int("heads") * cache.headDim, `q has width ${width}, expected ${int("heads")} heads of ${cache.headDim}`);
      expect(int("heads") % cache.heads === 0, `${int("heads")} query heads do not divide over ${cache.heads} kv heads`);
      expect(
        sameShape(one("query_start").shape, [sym("S", 1, 1)]) && sameShape(one("context").shape, [sym("S")]),
        "query_start must be [S+1] and context [S]",
      );
      expect(sameShape(one("block_table").shape, [sym("S"), sym("C")]), "block_table must be [S, C]");
      return [tensor(dtype("dtype"), [rows, width])];
    },
  },
  /**
   * p = softmax(x . gate^T) over all experts, f32; the k largest of p + correction are chosen (lower index on ties, in descending order);
   * their weights are p / max(sum of the chosen p, norm_min). The correction shifts the choice only.
   */
  moe_router: {
    level: "model",
    summary: "chooses k experts for each row and weighs them",
    operands: ["x", "gate", "correction?"],
    attrs: { k: "int", norm_min: "float" },
    results: ["logits", "indices", "weights"],
    traits: ["pure", "rowwise"],
    infer: ({ one, maybe, int }) => {
      const [rows, experts] = linearShape(one("x"), one("gate"), maybe("correction"));
      expect(int("k") > 0 && int("k") <= experts, `k = ${int("k")} of ${experts} experts`);
      return [tensor("f32", [rows, experts]), tensor("i32", [rows, int("k")]), tensor("f32", [rows, int("k")])];
    },
  },
  /**
   * One row for each (token, chosen expert): out[t*k + j] = x_row . weight[indices[t, j]]^T, where x_row is row t of x
   * if x has a row a token, and row t*k + j if it has a row a choice.
   */
  expert_linear: {
    level: "model",
    summary: "each row through the weights of its chosen expert",
    operands: ["x", "indices", "weight"],
    attrs: { dtype: "dtype" },
    results: ["out"],
    traits: ["pure"],
    infer: ({ one, dtype }) => {
      const [tokens, k] = rowsCols(one("indices"), "indices");
      const [rows, width] = rowsCols(one("x"), "x");
      const [, n, weightK] = dims(one("weight"), 3, "weight");
      const choices = scaleDim(tokens, k);
      expect(sameDim(rows, tokens) || sameDim(rows, choices), "x must have a row a token or a row a choice");
      expect(weightK === width, `x has width ${width}, the experts take ${String(weightK)}`);
      return [tensor(dtype("dtype"), [choices, num(n, "expert rows")])];
    },
  },
  /** out[t] = sum over j of weights[t, j] * rows[t*k + j], summed in f32 by ascending expert id. */
  moe_combine: {
    level: "model",
    summary: "weighted sum of the chosen experts' rows",
    operands: ["rows", "indices", "weights"],
    attrs: {},
    results: ["out"],
    traits: ["pure"],
    infer: ({ one }) => {
      const [tokens, k] = rowsCols(one("indices"), "indices");
      const [rows, width] = rowsCols(one("rows"), "rows");
      expect(sameDim(rows, scaleDim(tokens, k)), "rows must have a row a choice");
      expect(sameShape(one("weights").shape, one("indices").shape), "weights and indices differ in shape");
      return [tensor("f32", [tokens, width])];
    },
  },
  /** out[i] = x[rows[i]]. */
  gather_rows: {
    level: "model",
    summary: "out[i] = x[rows[i]]",
    operands: ["x", "rows"],
    attrs: {},
    results: ["out"],
    traits: ["pure"],
    infer: ({ one }) => {
      const [, width] = rowsCols(one("x"), "x");
      const [count] = dims(one("rows"), 1, "rows");
      return [tensor(one("x").dtype, [count as Dim, width])];
    },
  },
  /** Index of the largest value of each row, the lowest on ties; a NaN never wins. */
  argmax: {
    level: "model",
    summary: "index of the largest value of each row",
    operands: ["x"],
    attrs: {},
    results: ["out"],
    traits: ["pure", "rowwise"],
    infer: ({ one }) => [tensor("i32", [rowsCols(one("x"), "x")[0]])],
  },
  /** Sum over the devices of a group; on one device, x. */
  all_reduce: {
    level: "model",
    summary: "sum over the devices of a group",
    operands: ["x"],
    attrs: { group: "int" },
    results: ["out"],
    traits: ["pure", "rowwise"],
    infer: ({ one }) => [one("x")],
  },
  /** The parts of all devices of a group joined along `axis`; on one device, x. */
  all_gather: {
    level: "model",
    summary: "the parts of all devices joined along an axis",
    operands: ["x"],
    attrs: { group: "int", axis: "int" },
    results: ["out"],
    traits: ["pure"],
    infer: ({ one, int }) => {
      const x = one("x");
      const axis = int("axis");
      expect(axis >= 0 && axis < x.shape.length, `axis ${axis} of rank ${x.shape.length}`);
      const shape = x.shape.map((dim, i) => (i === axis && x.shard ? scaleDim(dim, x.shard.parts) : dim));
      return [tensor(x.dtype, shape)];
    },
  },

  /** sum = x + residual, rounded to their type; out = rms_norm(sum). */
  add_rms_norm: {
    level: "fused",
    summary: "sum = x + residual; out = rms_norm(sum)",
    operands: ["x", "residual", "weight"],
    attrs: { eps: "float", dtype: "dtype" },
    results: ["sum", "out"],
    traits: ["pure", "rowwise"],
    infer: ({ one, dtype }) => {
      const [rows, width] = rowsCols(one("x"), "x");
      expect(sameType(one("x"), one("residual")), "x and residual differ in type");
      expect(sameShape(one("weight").shape, [width]), `weight must be [${width}]`);
      return [one("residual"), tensor(dtype("dtype"), [rows, width])];
    },
  },
  /**
   * y = n . weight^T + bias + residual, where n is x, or with a norm rms_norm(x) rounded to `norm_dtype`. A norm costs each reader of x little where
   * rows are few, and saves a launch that all of them would wait for.
   */
  projection: {
    level: "fused",
    summary: "y = rms_norm(x) . weight^T + bias + residual",
    operands: ["x", "weight", "bias?", "norm?", "residual?"],
    attrs: { eps: "float?", norm_dtype: "dtype?", dtype: "dtype" },
    results: ["out"],
    traits: ["pure", "rowwise"],
    infer: ({ one, maybe, dtype }) => {
      checkNorm(one("x"), maybe("norm"));
      const out = tensor(dtype("dtype"), linearShape(one("x"), one("weight"), maybe("bias")));
      const residual = maybe("residual");
      if (residual) expect(sameType(residual, out), "residual and result differ in type");
      return [out];
    },
  },
  /** silu(x . gate^T) * (x . up^T), gate and up interleaved in groups of rows; a norm as in projection. */
  linear_swiglu: {
    level: "fused",
    summary: "silu(x . gate^T) * (x . up^T)",
    operands: ["x", "weight", "bias?", "norm?"],
    attrs: { group: "int", eps: "float?", norm_dtype: "dtype?", dtype: "dtype" },
    results: ["out"],
    traits: ["pure", "rowwise"],
    infer: ({ one, maybe, int, dtype }) => {
      checkNorm(one("x"), maybe("norm"));
      const [rows, n] = linearShape(one("x"), one("weight"), maybe("bias"));
      expect(n % (2 * int("group")) === 0, `${n} rows are not whole pairs of groups of ${int("group")}`);
      return [tensor(dtype("dtype"), [rows, n / 2])];
    },
  },
  /** Splits qkv, rotates q and k (both rounded to `dtype`), puts k and v into the cache, gives q. */
  rope_kv_append: {
    level: "fused",
    summary: "rotates q and k of a fused qkv and appends k and v to the cache",
    operands: ["qkv", "positions", "slots", "cache"],
    attrs: { heads: "int", theta: "float", sections: "ints", dtype: "dtype" },
    results: ["q", "cache"],
    traits: [],
    infer: ({ one, any, int, dtype }) => {
      const cache = any("cache");
      checkKv(cache);
      const [rows, width] = rowsCols(one("qkv"), "qkv");
      const expected = (int("heads") + 2 * cache.heads) * cache.headDim;
      expect(width === expected, `qkv has width ${width}, expected ${expected}`);
      checkPositions(one("positions"), rows);
      return [tensor(dtype("dtype"), [rows, int("heads") * cache.headDim]), cache];
    },
  },
  /**
   * Cosine and sine of what rope turns each pair of a head by, in f32; those of a step are the same in every layer. They stand in the order in which tensor
   * cores leave results: of pair p = 16r + 8h + 4i + j, with i < 2 and j < 4, at 2(16r + 8h + 2j + i) and one further.
   */
  rope_turns: {
    level: "fused",
    summary: "cosine and sine of each pair's angle",
    operands: ["positions"],
    attrs: { head_dim: "int", theta: "float", sections: "ints" },
    results: ["out"],
    traits: ["pure", "rowwise"],
    infer: ({ one, int, ints }) => {
      const [rows] = dims(one("positions"), 2, "positions");
      const pairs = ints("sections").reduce((a, b) => a + b, 0);
      expect(ints("sections").length === 3 && pairs * 2 === int("head_dim"), "sections must be three counts that add up to head_dim / 2");
      expect(pairs % 16 === 0, `${pairs} pairs are no multiple of 16`);
      checkPositions(one("positions"), rows as Dim);
      return [tensor("f32", [rows as Dim, int("head_dim")])];
    },
  },
  /** linear in f32, then rope_kv_append on it, which turns by `turns`. */
  qkv_rope_append: {
    level: "fused",
    summary: "linear, then rope_kv_append",
    operands: ["x", "weight", "bias?", "turns", "slots", "cache"],
    attrs: { heads: "int", dtype: "dtype" },
    results: ["q", "cache"],
    traits: [],
    infer: ({ one, maybe, any, int, dtype }) => {
      const cache = any("cache");
      checkKv(cache);
      const [rows, width] = linearShape(one("x"), one("weight"), maybe("bias"));
      const expected = (int("heads") + 2 * cache.heads) * cache.headDim;
      expect(width === expected, `the weight has ${width} rows, expected ${expected}`);
      expect(one("turns").dtype === "f32" && sameShape(one("turns").shape, [rows, cache.headDim]), "turns must be f32[rows, head_dim]");
      expect(sameShape(one("slots").shape, [rows]) && one("slots").dtype === "i32", "slots must be i32, one a row");
      return [tensor(dtype("dtype"), [rows, int("heads") * cache.headDim]), cache];
    },
  },
  /** rope_kv_append, then attention over the cache with what it appended. */
  rope_attention: {
    level: "fused",
    summary: "rope_kv_append, then attention",
    operands: ["qkv", "positions", "slots", "cache", "query_start", "context", "block_table"],
    attrs: { heads: "int", theta: "float", sections: "ints", scale: "float", dtype: "dtype" },
    results: ["out", "cache"],
    traits: [],
    infer: ({ one, any, int, dtype }) => {
      const cache = any("cache");
      checkKv(cache);
      const [rows, width] = rowsCols(one("qkv"), "qkv");
      const expected = (int("heads") + 2 * cache.heads) * cache.headDim;
      expect(width === expected, `qkv has width ${width}, expected ${expected}`);
      checkPositions(one("positions"), rows);
      return [tensor(dtype("dtype"), [rows, int("heads") * cache.headDim]), cache];
    },
  },
  /** n = rms_norm(x); normed is n rounded to `dtype`; the rest is moe_router(n), which reads n in f32. */
  norm_router: {
    level: "fused",
    summary: "rms_norm, and moe_router on it",
    operands: ["x", "norm", "gate", "correction?"],
    attrs: { k: "int", norm_min: "float", eps: "float", dtype: "dtype" },
    results: ["normed", "logits", "indices", "weights"],
    traits: ["pure", "rowwise"],
    infer: ({ one, maybe, int, dtype }) => [
      tensor(dtype("dtype"), one("x").shape),
      ...routerTypes(one("x"), one("norm"), one("gate"), maybe("correction"), int("k")),
    ],
  },
  /** norm_router, and linear_swiglu of its normed rows: the experts that every row has need not wait for the router. */
  router_swiglu: {
    level: "fused",
    summary: "norm_router, and linear_swiglu on its normed rows",
    operands: ["x", "norm", "gate", "weight", "correction?"],
    attrs: { k: "int", norm_min: "float", eps: "float", group: "int", dtype: "dtype" },
    results: ["normed", "logits", "indices", "weights", "out"],
    traits: ["pure", "rowwise"],
    infer: ({ one, maybe, int, dtype }) => {
      const [rows, n] = linearShape(one("x"), one("weight"), undefined);
      expect(n % (2 * int("group")) === 0, `${n} rows are not whole pairs of groups of ${int("group")}`);
      return [
        tensor(dtype("dtype"), one("x").shape),
        ...routerTypes(one("x"), one("norm"), one("gate"), maybe("correction"), int("k")),
        tensor(dtype("dtype"), [rows, n / 2]),
      ];
    },
  },
  /** expert_linear x 2, swiglu (rounded to `dtype`), expert_linear, moe_combine, plus addend. */
  moe_ffn: {
    level: "fused",
    summary: "the chosen experts' SwiGLU MLPs and their weighted sum",
    operands: ["x", "indices", "weights", "gate_up", "down", "addend?"],
    attrs: { group: "int", dtype: "dtype" },
    results: ["out"],
    traits: ["pure", "rowwise"],
    infer: ({ one, maybe, int }) => [moeFfnType(one("x"), one("gate_up"), one("down"), maybe("addend"), int("group"))],
  },
  /** moe_ffn, and rms_norm of what it gives, rounded to `dtype`. */
  moe_ffn_norm: {
    level: "fused",
    summary: "moe_ffn, and rms_norm on its sum",
    operands: ["x", "indices", "weights", "gate_up", "down", "norm", "addend?"],
    attrs: { group: "int", eps: "float", dtype: "dtype" },
    results: ["out", "normed"],
    traits: ["pure", "rowwise"],
    infer: ({ one, maybe, int, dtype }) => {
      const out = moeFfnType(one("x"), one("gate_up"), one("down"), maybe("addend"), int("group"));
      checkNorm(out, one("norm"));
      return [out, tensor(dtype("dtype"), out.shape)];
    },
  },
  /** logits = x . weight^T + bias; ids = argmax(logits); a norm as in projection. */
  head_argmax: {
    level: "fused",
    summary: "logits = x . weight^T; ids = argmax(logits)",
    operands: ["x", "weight", "bias?", "norm?"],
    attrs: { eps: "float?", norm_dtype: "dtype?" },
    results: ["logits", "ids"],
    traits: ["pure", "rowwise"],
    infer: ({ one, maybe }) => {
      checkNorm(one("x"), maybe("norm"));
      const [rows, n] = linearShape(one("x"), one("weight"), maybe("bias"));
      return [tensor("f32", [rows, n]), tensor("i32", [rows])];
    },
  },

  /**
   * A weight as its kernels read it: in `layout`, and as `dtype`, which holds every value of x exactly (bf16 widened to f32) or is x's own.
   * The packer does it at compile time; in the graph it makes the one layout of a weight visible.
   */
  pack: {
    level: "kernel",
    summary: "a weight in the layout and element type that its kernels read",
    operands: ["x"],
    attrs: { layout: "layout", dtype: "dtype" },
    results: ["out"],
    traits: ["pure", "weight"],
    infer: ({ one, dtype, layout }) => {
      const x = one("x");
      expect(x.layout === "row", "x is packed already");
      expect(
        dtype("dtype") === x.dtype || (x.dtype !== "f32" && dtype("dtype") === "f32"),
        `${x.dtype} does not widen to ${dtype("dtype")}`,
      );
      return [tensor(dtype("dtype"), x.shape, { encoding: x.encoding, layout: layout("layout"), shard: x.shard })];
    },
  },
  /**
   * One launch of one kernel: `op` with its attributes as `op_attrs` says what it computes, `kernel` and `params` how. Results are those of `op`.
   * Operands that `op` may lack are listed in order; `present` has one 0 or 1 for each operand name of `op`.
   */
  launch: {
    level: "kernel",
    summary: "one launch of a chosen kernel variant",
    operands: ["args*"],
    attrs: { op: "string", kernel: "string", present: "ints", op_attrs: "record", params: "record" },
    results: ["results*"],
    traits: [],
    infer: ({ stated }) => stated,
  },
  /** Memory with a place: `space` is weights, arena, inputs or kv; `offset` in bytes. */
  buffer: {
    level: "plan",
    summary: "memory with a place",
    operands: [],
    attrs: { space: "string", offset: "int", bytes: "int" },
    results: ["out"],
    traits: ["pure"],
    infer: ({ stated }) => stated,
  },
  /** Runs kernel number `kernel` of the package on buffers, in order of its C parameters; results are written in place. */
  call: {
    level: "plan",
    summary: "runs a kernel on buffers",
    operands: ["args*"],
    attrs: { kernel: "string" },
    results: [],
    traits: [],
    infer: () => [],
  },
} as const satisfies { readonly [name: string]: OpDef };

export type OpName = keyof typeof OPS;
export const OP_NAMES = Object.keys(OPS) as OpName[];

export function isOpName(name: string): name is OpName {
  return Object.hasOwn(OPS, name);
}

export function opDef(name: OpName): OpDef {
  return OPS[name];
}

export function hasTrait(name: OpName, trait: Trait): boolean {
  return opDef(name).traits.includes(trait);
}

export function levelIndex(level: Level): number {
  return LEVELS.indexOf(level);
}
