/** Patterns, rules and the driver: order, overlap, limits, and that a wrong rule is caught. */

import { describe, expect, it } from "vitest";
import type { GraphInfo } from "../../src/ir/analysis.js";
import { resultOf } from "../../src/ir/graph.js";
import { op } from "../../src/ir/match.js";
import { parse } from "../../src/ir/parse.js";
import { applyRules } from "../../src/ir/rewrite.js";
import { type Rule, rule } from "../../src/ir/rule.js";
import { verify } from "../../src/ir/verify.js";

const HEAD = "func @f(%x: f32[T, 8], %y: f32[T, 8])";
const graphOf = (body: string, returns: string) =>
  parse(`${HEAD} -> (${returns.replace(/(\w+) = %\w+/g, "$1: f32[T, 8]")}) bounds {T: 1..4} {\n${body}\n  return ${returns}\n}`);

// cast(cast(x)) -> cast(x): of a chain, every other pair at first, then what that leaves.
const twice = rule({
  name: "twice",
  match: { inner: op("cast", { x: "x" }), outer: op("cast", { x: "inner" }) },
  where: { "the inner has one reader": ({ inner, outer }, info) => info.onlyReader(resultOf(inner), outer) },
  rewrite: ({ x, outer }, build) => build.value("cast", { x }, outer.attrs),
});

describe("patterns", () => {
  it("try both orders of a commutative op, and prefer one that a guard allows", () => {
    const graph = graphOf(
      "  %a = add %x, %y : f32[T, 8]\n  %n = swiglu %x, %y {dtype = f32} : f32[T, 8]\n  %b = add %n, %a : f32[T, 8]",
      "r = %b",
    );
    const gated = rule({
      name: "gated",
      match: { gate: op("swiglu", { gate: "g", up: "u" }), sum: op("add", { a: "other", b: "gate" }) },
      rewrite: ({ other, gate }, build) => build.value("add", { a: other, b: resultOf(gate) }, {}),
    });
    // It matches its own result: the driver must say so rather than hang.
    expect(() => applyRules(graph, [gated], { pass: "test" })).toThrow(/do not come to rest: gated/);
    expect(applyRules(graph, [gated], { pass: "test", limit: 1 }).applied).toHaveLength(1);
  });

  it("bind a result of several by its number, and a value twice only to itself", () => {
    const graph = graphOf(
      '  %p, %q = split %x {sizes = [4, 4]} : f32[T, 4], f32[T, 4]\n  %g = swiglu %q, %q {dtype = f32} : f32[T, 4]\n  %h = swiglu %p, %q {dtype = f32} : f32[T, 4]\n  %w = weight {name = "w"} : f32[8, 4]\n  %r = linear %g, %w {dtype = f32} : f32[T, 8]\n  %s = linear %h, %w {dtype = f32} : f32[T, 8]',
      "r = %r, s = %s",
    );
    const found: string[] = [];
    const seen = (name: string, gate: string, up: string): Rule =>
      rule({
        name,
        match: { pieces: op("split"), y: op("swiglu", { gate, up }) },
        when: () => found.push(name) === 0,
        rewrite: () => [],
      });
    const same = rule({
      name: "same",
      match: { y: op("swiglu", { gate: "v", up: "v" }) },
      when: () => found.push("same") === 0,
      rewrite: () => [],
    });
    applyRules(
      graph,
      [seen("0,1", "pieces.0", "pieces.1"), seen("1,0", "pieces.1", "pieces.0"), seen("1,1", "pieces.1", "pieces.1"), same],
      { pass: "test" },
    );
    expect(found).toEqual(["0,1", "1,1", "same"]);
  });

  it("must hang together", () => {
    const loose = () => rule({ name: "loose", match: { a: op("add"), y: op("cast", { x: "x" }) }, rewrite: () => [] });
    expect(loose).toThrow(/rule loose: a can't be reached from the root, y/);
  });
});

describe("applyRules", () => {
  const casts = ["x", "a", "b", "c", "d"].map((x, i, all) => `  %${all[i + 1] ?? "e"} = cast %${x} {dtype = f32} : f32[T, 8]`);
  const chain = graphOf(casts.join("\n"), "r = %e");

  it("goes on until nothing matches", () => {
    const { graph, applied } = applyRules(chain, [twice], { pass: "test" });
    verify(graph, "model");
    expect(applied).toHaveLength(4);
    expect(graph.nodes).toHaveLength(1);
    expect(applyRules(graph, [twice], { pass: "test" }).graph).toBe(graph);
  });

  it("stops at a limit, and gives the same graph back when it does nothing", () => {
    for (const limit of [0, 1, 2, 3]) {
      const { graph, applied } = applyRules(chain, [twice], { pass: "test", limit });
      expect(applied).toHaveLength(limit);
      expect(graph.nodes).toHaveLength(5 - limit);
    }
    expect(applyRules(chain, [twice], { pass: "test", limit: 0 }).graph).toBe(chain);
  });

  it("tells which guard said no, and where", () => {
    const graph = graphOf(casts.slice(0, 2).join("\n"), "r = %b, s = %a");
    const { refused } = applyRules(graph, [twice], { pass: "test" });
    expect(refused).toEqual([{ rule: "twice", guard: "the inner has one reader", at: "%1 = cast %0 {dtype = f32} : f32[T, 8]" }]);
  });

  it("says where new nodes come from", () => {
    const { graph } = applyRules(chain, [twice], { pass: "test" });
    expect(graph.nodes.every(({ origin }) => origin.kind === "pass" && origin.pass === "test")).toBe(true);
  });

  it("keeps SSA order when a new node needs what came later", () => {
    const graph = graphOf(
      '  %w = weight {name = "w"} : f32[8, 8]\n  %a = linear %x, %w {dtype = f32} : f32[T, 8]\n  %early = cast %a {dtype = f32} : f32[T, 8]\n  %v = weight {name = "v"} : f32[8, 8]\n  %b = linear %x, %v {dtype = f32} : f32[T, 8]\n  %s = add %early, %b : f32[T, 8]',
      "r = %s",
    );
    const joined = rule({
      name: "joined",
      match: {
        a: op("linear", { x: "x", weight: "w" }),
        early: op("cast", { x: "a" }),
        b: op("linear", { x: "x", weight: "v" }),
        s: op("add", { a: "early", b: "b" }),
      },
      keep: ["early", "s"],
      when: ({ a, b }) => a !== b,
      rewrite: ({ x, w, v, a, b }, build) => {
        const both = build.value("linear", { x, weight: build.value("concat_rows", { parts: [w, v] }, {}) }, { dtype: "f32" });
        const [p, q] = build.node("split", { x: both }, { sizes: [8, 8] }).results;
        return [
          [resultOf(a), p ?? both],
          [resultOf(b), q ?? both],
        ];
      },
    });
    const { graph: after, applied } = applyRules(graph, [joined], { pass: "test" });
    verify(after, "model");
    expect(applied).toHaveLength(1);
    expect(after.nodes.map((node) => node.op)).toEqual(["weight", "weight", "concat_rows", "linear", "split", "cast", "add"]);
  });

  it("never loses an effect: a node that a rule gives up stays if it has one", () => {
    const graph = parse(`func @f(%c: kv<f32[1, 8]>, %x: f32[T, 8], %slots: i32[T]) bounds {T: 1..4} {
  %0 = kv_append %c, %x, %x, %slots : kv<f32[1, 8]>
  return
}`);
    const careless: Rule = {
      name: "careless",
      *find(info: GraphInfo) {
        for (const root of info.nodesOf("kv_append")) yield { root, nodes: [root], rewrite: () => [] };
      },
    };
    expect(applyRules(graph, [careless], { pass: "test", limit: 1 }).graph.nodes).toHaveLength(1);
  });

  it("refuses a rule that changes a type", () => {
    const narrowed = rule({
      name: "narrowed",
      match: { y: op("cast", { x: "a" }) },
      rewrite: ({ a }, build) => build.value("cast", { x: a }, { dtype: "bf16" }),
    });
    expect(() => applyRules(chain, [narrowed], { pass: "test" })).toThrow(/narrowed changes the type/);
  });
});
