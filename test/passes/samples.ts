/** For each pass a random graph with its pattern in it, or with a near miss: what must fire, and which guard must say no. */

import type { Graph, Value } from "../../src/ir/graph.js";
import type { DType } from "../../src/ir/types.js";
import { type Random, Soup, widthOf } from "./soup.js";

/** Names (or their beginnings) of rules that must fire, or the guard that must refuse; neither if nothing is near enough to say so. */
interface Expected {
  readonly fires?: readonly string[];
  readonly guard?: string | undefined;
}

export interface Sample extends Expected {
  readonly graph: Graph;
}

/** Puts the pattern of a pass into a soup, or a near miss; gives what must be returned for all of it to be alive. */
export type Maker = (soup: Soup, miss: boolean) => Expected & { readonly returns: { readonly [name: string]: Value } };

/** `alone` puts nothing around the pattern that might match by chance. */
export function makeSample(maker: Maker, random: Random, miss: boolean, alone = false): Sample {
  const soup = new Soup(random);
  const around = () => {
    if (!alone) soup.grow(random.int(0, 4));
  };
  around();
  const { returns, ...expected } = maker(soup, miss);
  around();
  return { graph: soup.finish(returns, alone ? 0 : random.int(0, 2)), ...expected };
}

const canonicalize: Maker = (soup, miss) => {
  const { b, random } = soup;
  if (miss) {
    // Looks the same, is not: other weights, and everything is returned.
    const x = soup.b.param("m", soup.any(8, "f32").type);
    const [v, w] = [soup.weight([8, 8]), soup.weight([8, 8])];
    const twice = [v, w].map((weight) => b.value("linear", { x, weight }, { dtype: "f32" }));
    return { returns: { a: twice[0] as Value, b: twice[1] as Value } };
  }
  const whole = soup.weight([24, 8]);
  const cuts = [0, 8, 12, 24];
  const parts = cuts
    .slice(1)
    .map((end, i) => b.value("slice_rows", { x: whole }, { start: cuts[i] as number, length: end - (cuts[i] as number) }));
  const x = soup.any(8);
  const qkv = b.value("linear", { x, weight: b.value("concat_rows", { parts }, {}) }, { dtype: "f32" });
  const turned = b.value("transpose", { x: b.value("transpose", { x: whole }, {}) }, {});
  const again = b.value("linear", { x, weight: turned }, { dtype: "f32" });
  const sum = b.value("all_reduce", { x: b.value("add", { a: qkv, b: again }, {}) }, { group: 1 });
  const wide = b.value("cast", { x: b.value("cast", { x: sum }, { dtype: "bf16" }) }, { dtype: "f32" });
  const y = b.value("cast", { x: wide }, { dtype: random.pick<DType>(["bf16", "f32"]) });
  return { returns: { y }, fires: ["concat-of-slices", "transpose-twice", "all-reduce-over-one", "same-twice"] };
};

interface Heads {
  readonly kvHeads: number;
  readonly heads: number;
  readonly dtype: DType;
}

function randomHeads(random: Random): Heads {
  const kvHeads = random.int(1, 2);
  return { kvHeads, heads: kvHeads * random.int(1, 2), dtype: random.pick<DType>(["f32", "bf16"]) };
}

function rope(soup: Soup, x: Value, heads: number, dtype: DType, theta = 10000): Value {
  return soup.b.value("rope", { x, positions: soup.positions }, { heads, head_dim: 8, theta, sections: [0, 0, 4], dtype });
}

/** q and k turned, k and v appended, attention: what follows the projections. */
function attend(soup: Soup, { heads, kvHeads, dtype }: Heads, q: Value, k: Value, v: Value): { out: Value; cache: Value } {
  const { b } = soup;
  const kept = dtype === "bf16" && soup.random.chance(0.7) ? b.value("cast", { x: v }, { dtype }) : v;
  const cache = b.value("kv_append", { cache: soup.cache(dtype, kvHeads, 8), k, v: kept, slots: soup.slots }, {});
  const operands = { q, cache, query_start: soup.queryStart, context: soup.context, block_table: soup.blockTable };
  return { out: soup.put(b.value("attention", operands, { heads, scale: 8 ** -0.5, dtype })), cache };
}

const fuseQkv: Maker = (soup, miss) => {
  const { random } = soup;
  const heads = randomHeads(random);
  const x = soup.any();
  const bias = random.chance(0.5);
  const [why, guard] = miss
    ? random.pick([
        ["bias", "all have a bias or none has"],
        ["dtype", "they are rounded to one dtype"],
        ["weights", "their weights are of one kind"],
        ["x", undefined],
        ["norm", undefined],
      ] as const)
    : [undefined, undefined];
  const q = soup.linear(x, heads.heads * 8, { bias: why === "bias" ? !bias : bias });
  const k = soup.linear(why === "x" ? soup.norm(x) : x, heads.kvHeads * 8, { bias, dtype: why === "dtype" ? "bf16" : "f32" });
  const vWeight = soup.weight([heads.kvHeads * 8, widthOf(x.type)], why === "weights" ? "f32" : "bf16");
  const v = soup.put(
    soup.b.value("linear", { x, weight: vWeight, bias: bias ? soup.weight([heads.kvHeads * 8]) : undefined }, { dtype: "f32" }),
  );
  const { out, cache } = attend(
    soup,
    heads,
    rope(soup, why === "norm" ? soup.norm(q) : q, heads.heads, heads.dtype),
    rope(soup, k, heads.kvHeads, heads.dtype),
    v,
  );
  return { returns: { out, cache }, ...(miss ? { guard } : { fires: ["siblings"] }) };
};

const fuseRopeKvAppend: Maker = (soup, miss) => {
  const { random, b } = soup;
  const heads = randomHeads(random);
  const [qWidth, kvWidth] = [heads.heads * 8, heads.kvHeads * 8];
  const qkv = soup.linear(soup.any(), qWidth + 2 * kvWidth);
  const [q, k, v] = b.node("split", { x: qkv }, { sizes: [qWidth, kvWidth, kvWidth] }).results as readonly [Value, Value, Value];
  const [why, guard] = miss
    ? random.pick([
        ["theta", "q and k turn alike"],
        ["k", "the turned k is only appended"],
        ["v", "nobody else reads the pieces"],
        ["order", undefined],
      ] as const)
    : [undefined, undefined];
  const turnedK = rope(soup, k, heads.kvHeads, heads.dtype, why === "theta" ? 500000 : 10000);
  const { out, cache } = attend(
    soup,
    heads,
    rope(soup, q, heads.heads, heads.dtype),
    why === "order" ? rope(soup, v, heads.kvHeads, heads.dtype) : turnedK,
    why === "order" ? k : v,
  );
  const more: { [name: string]: Value } = why === "k" ? { turnedK } : why === "v" ? { v } : {};
  return { returns: { out, cache, ...more }, ...(miss ? { guard } : { fires: ["rotate"] }) };
};

const fuseGateUp: Maker = (soup, miss) => {
  const { random, b } = soup;
  const x = soup.any();
  const bias = random.chance(0.4);
  const [why, guard] = miss
    ? random.pick([
        ["width", "the width is a multiple of 8"],
        ["bias", "both have a bias or none has"],
        ["dtype", "gate and up are not rounded before the product"],
        ["reader", "nobody else reads gate or up"],
        ["same", "gate and up are two projections"],
        ["x", undefined],
      ] as const)
    : [undefined, undefined];
  const width = why === "width" ? random.pick([4, 12, 20]) : random.pick([8, 16, 24, 32, 64]);
  const make = (from: Value, biased: boolean, dtype: DType) =>
    b.value(
      "linear",
      { x: from, weight: soup.weight([width, widthOf(from.type)]), bias: biased ? soup.weight([width]) : undefined },
      { dtype },
    );
  const gate = make(x, bias, "f32");
  const up = why === "same" ? gate : make(why === "x" ? soup.norm(x) : x, why === "bias" ? !bias : bias, why === "dtype" ? "bf16" : "f32");
  const y = b.value("swiglu", { gate, up }, { dtype: random.pick<DType>(["f32", "bf16"]) });
  return { returns: { y, ...(why === "reader" ? { up } : {}) }, ...(miss ? { guard } : { fires: ["gate-and-up"] }) };
};

const fuseAddRmsNorm: Maker = (soup, miss) => {
  const { random, b } = soup;
  const a = soup.any(8, "f32");
  const other = soup.linear(a, 8);
  const sum = b.value("add", random.chance(0.5) ? { a, b: other } : { a: other, b: a }, {});
  const y = soup.norm(miss ? other : sum, random.pick<DType>(["f32", "bf16"]));
  return { returns: { y, ...(miss || random.chance(0.7) ? { sum } : {}) }, ...(miss ? {} : { fires: ["sum-then-norm"] }) };
};

const fuseMoe: Maker = (soup, miss) => {
  const { random, b } = soup;
  const dtype = random.pick<DType>(["f32", "bf16"]);
  const x = soup.any(8);
  const [experts, k] = [random.int(2, 5), random.int(1, 2)];
  const [why, guard] = miss
    ? random.pick([
        ["width", "the width is a multiple of 8"],
        ["dtype", "only the hidden rows are rounded"],
        ["reader", "nobody else reads what lies between"],
        ["same", "gate and up are two projections"],
        ["indices", undefined],
      ] as const)
    : [undefined, undefined];
  const width = why === "width" ? 12 : random.pick([8, 16, 32]);
  const router = () =>
    b.node(
      "moe_router",
      { x, gate: soup.weight([experts, 8], "f32"), correction: random.chance(0.5) ? soup.weight([experts], "f32") : undefined },
      { k, norm_min: 1e-12 },
    );
  const [, indices, weights] = router().results as readonly [Value, Value, Value];
  const expert = (rows: Value, n: number, to: DType = "f32", chosen = indices) =>
    b.value("expert_linear", { x: rows, indices: chosen, weight: soup.weight([experts, n, widthOf(rows.type)]) }, { dtype: to });
  const gate = expert(x, width);
  const up =
    why === "same"
      ? gate
      : expert(x, width, why === "dtype" ? "bf16" : "f32", why === "indices" ? (router().results[1] as Value) : indices);
  const hidden = b.value("swiglu", { gate, up }, { dtype });
  const sum = b.value("moe_combine", { rows: expert(hidden, 8), indices, weights }, {});
  const shared = random.chance(0.6);
  const addend = soup.any(8, "f32");
  const out = shared ? b.value("add", random.chance(0.5) ? { a: sum, b: addend } : { a: addend, b: sum }, {}) : sum;
  const fires = shared ? ["experts", "add-to-sum"] : ["experts"];
  return { returns: { out, ...(why === "reader" ? { hidden } : {}) }, ...(miss ? { guard } : { fires }) };
};

const lastTokenHead: Maker = (soup, miss) => {
  const { random, b } = soup;
  const base = soup.any(8, "f32");
  const gated = soup.linear(base, 16);
  const sum = b.value("add", { a: base, b: soup.linear(b.value("swiglu", { gate: gated, up: gated }, { dtype: "f32" }), 8) }, {});
  const x = b.value("rms_norm", { x: sum, weight: soup.weight([8]) }, { eps: 1e-5, dtype: random.pick<DType>(["f32", "bf16"]) });
  const logits = b.value("linear", { x, weight: soup.weight([20, 8]) }, { dtype: "f32" });
  const last = b.value("gather_rows", { x: logits, rows: soup.lastRows }, {});
  return {
    returns: { last, ...(miss ? { logits } : {}) },
    ...(miss ? { guard: "nobody reads the other rows" } : { fires: ["through-rowwise"] }),
  };
};

const fuseHeadArgmax: Maker = (soup, miss) => {
  const { random, b } = soup;
  const x = soup.any();
  const dtype: DType = miss ? "bf16" : "f32";
  const bias = random.chance(0.4) ? soup.weight([20]) : undefined;
  const logits = b.value("linear", { x, weight: soup.weight([20, widthOf(x.type)]), bias }, { dtype });
  const ids = b.value("argmax", { x: logits }, {});
  return { returns: { logits, ids }, ...(miss ? { guard: "logits are f32" } : { fires: ["head-then-argmax"] }) };
};

export const MAKERS: { readonly [pass: string]: Maker } = {
  canonicalize,
  "fuse-qkv": fuseQkv,
  "fuse-gate-up": fuseGateUp,
  "fuse-rope-kv-append": fuseRopeKvAppend,
  "fuse-moe": fuseMoe,
  "last-token-head": lastTokenHead,
  "fuse-add-rms-norm": fuseAddRmsNorm,
  "fuse-head-argmax": fuseHeadArgmax,
};
