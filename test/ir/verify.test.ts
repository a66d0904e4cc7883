/** The verifier: the guilty lines of verify-errors.ir, and what only a graph that was not read from text can get wrong. */

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { Diagnostic } from "../../src/diagnostics.js";
import { Builder, type Graph, type Node } from "../../src/ir/graph.js";
import type { Level } from "../../src/ir/ops.js";
import { parse, parseLocated } from "../../src/ir/parse.js";
import { sym, tensor } from "../../src/ir/types.js";
import { levelOf, verify } from "../../src/ir/verify.js";

function errorOf(run: () => void): Diagnostic {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(Diagnostic);
    return error as Diagnostic;
  }
  throw new Error("nothing was refused");
}

const cases = readFileSync(new URL("./verify-errors.ir", import.meta.url), "utf8")
  .split("// ----\n")
  .map((text) => ({ name: /func @(\w+)/.exec(text)?.[1] ?? "", text }));

describe("verify-errors.ir", () => {
  it.each(cases)("$name", ({ text }) => {
    const lines = text.split("\n");
    const guilty = lines.findIndex((line) => line.includes("// error: "));
    const expected = (lines[guilty] as string).split("// error: ")[1] as string;
    const level = (/^\/\/ level: (\w+)$/m.exec(text)?.[1] ?? "model") as Level;
    const parsed = parseLocated(text, "case.ir");
    const error = errorOf(() => verify(parsed.graph, level, parsed));
    expect(`${error.code}: ${error.summary}`).toContain(expected);
    // What is wrong with the head or the returns is said of the function.
    const line = lines[guilty]?.startsWith("func") ? 1 : guilty + 1;
    expect(error.place).toMatch(new RegExp(`^case\\.ir:${line}:\\d+`));
    // Without the source, the line is that of the printed form.
    expect(errorOf(() => verify(parsed.graph, level)).place).toMatch(/^@\w+:\d+:\d+/);
  });
});

const tail = parse(`func @tail(%x: f32[T, 8], %r: f32[T, 8]) -> f32[T, 8] bounds {T: 1..4} {
  %0 = add %r, %x : f32[T, 8]
  %1 = add %0, %x : f32[T, 8]
  return %1
}`);
const [first, second] = tail.nodes as readonly [Node, Node];

describe("graphs in memory", () => {
  it("accepts a sound one", () => verify(tail, "model"));

  it.each<[string, Graph, string, string]>([
    ["a value used before its definition", { ...tail, nodes: [second, first] }, "ir-undefined-value", "@tail:2:3"],
    ["a value that nobody makes", { ...tail, nodes: [second] }, "ir-undefined-value", "@tail:2:3"],
    ["a return that nobody makes", { ...tail, nodes: [first] }, "ir-undefined-value", "@tail:1:1"],
    ["a node twice", { ...tail, nodes: [first, first, second] }, "ir-ssa", "@tail:2:3"],
    ["an unknown op", { ...tail, nodes: [{ ...first, op: "ad" } as unknown as Node, second] }, "ir-unknown-op", "@tail:1:1"],
    [
      "an unknown operand",
      { ...tail, nodes: [{ ...first, operands: { ...first.operands, c: first.results[0] } } as Node, second] },
      "ir-operand",
      "@tail:2:3",
    ],
    [
      "a list where a value belongs",
      { ...tail, nodes: [{ ...first, operands: { a: [], b: tail.params[0]?.value } } as unknown as Node, second] },
      "ir-operand",
      "@tail:2:3",
    ],
    ["an unknown attribute", { ...tail, nodes: [{ ...first, attrs: { eps: 1 } } as unknown as Node, second] }, "ir-attribute", "@tail:2:3"],
    ["parameters of one name", { ...tail, params: tail.params.map((param) => ({ ...param, name: "x" })) }, "ir-name", "@tail:1:1"],
  ])("refuses %s", (_, graph, code, place) => {
    const error = errorOf(() => verify(graph, "model"));
    expect(error.code).toBe(code);
    expect(error.place?.startsWith(place)).toBe(true);
  });

  it("finds the level of a graph", () => {
    expect(levelOf(tail)).toBe("model");
    const b = new Builder("f", { T: { min: 1, max: 4 } });
    const x = b.param("x", tensor("f32", [sym("T"), 8]));
    b.node("head_argmax", { x, weight: b.weight("w", tensor("bf16", [4, 8])) }, {});
    expect(levelOf(b.finish())).toBe("fused");
  });

  it("is frozen, lists and records too", () => {
    const b = new Builder("f", { T: { min: 1, max: 4 } });
    const sizes = [4, 4];
    const x = b.param("x", tensor("f32", [sym("T"), 8]));
    const node = b.node("split", { x }, { sizes });
    sizes.push(1);
    expect(node.attrs.sizes).toEqual([4, 4]);
    for (const part of [b.finish(), node, node.operands, node.attrs, node.attrs.sizes, node.results, x])
      expect(Object.isFrozen(part)).toBe(true);
  });
});
