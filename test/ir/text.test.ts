/** The text form: what is printed reads back as the same graph, and what can't be read says where. */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Diagnostic } from "../../src/diagnostics.js";
import { Builder, type Graph } from "../../src/ir/graph.js";
import { parse, parseAll } from "../../src/ir/parse.js";
import { print, printAll, printNumber } from "../../src/ir/print.js";
import { sym, tensor } from "../../src/ir/types.js";
import { anyGraph } from "./any-graph.js";

/** All but origins, which are comments. */
function content({ name, params, nodes, returns, bounds }: Graph): unknown {
  return { name, params, nodes: nodes.map(({ op, operands, attrs, results }) => ({ op, operands, attrs, results })), returns, bounds };
}

const TAIL = `func @tail(%x: bf16[T, 1024], %r: bf16[T, 1024], %w: bf16[1024]) -> bf16[T, 1024] bounds {T: 1..512} {
  %0 = add %r, %x : bf16[T, 1024]
  %1 = rms_norm %0, %w {eps = 1e-5, dtype = bf16} : bf16[T, 1024]
  return %1
}
`;

describe("round trip", () => {
  it("parse(print(g)) is g", () => {
    fc.assert(
      fc.property(anyGraph, (graph) => {
        const text = print(graph);
        const back = parse(text);
        expect(content(back)).toEqual(content(graph));
        expect(print(back)).toBe(text);
      }),
      { numRuns: 500 },
    );
  });

  it("leaves origins in comments, whatever they hold", () => {
    fc.assert(
      fc.property(anyGraph, fc.string({ unit: "binary" }), (graph, key) => {
        const nodes = graph.nodes.map((node) => ({ ...node, origin: { kind: "config", key } as const }));
        expect(content(parse(print({ ...graph, nodes }, { origins: true })))).toEqual(content(graph));
      }),
      { numRuns: 100 },
    );
  });

  it("print(parse(text)) is the text, as it is written here", () => {
    expect(print(parse(TAIL))).toBe(TAIL);
  });

  it("numbers values by itself in each function", () => {
    const named = TAIL.replaceAll("%0", "%sum").replaceAll("%1", "%out");
    expect(print(parse(named))).toBe(TAIL);
    const both = parseAll(`${TAIL}\n// the same again\n${TAIL}`).map(({ graph }) => graph);
    expect(printAll(both)).toBe(`${TAIL}\n${TAIL}`);
  });
});

describe("writes", () => {
  it.each([
    [1e-5, "1e-5"],
    [0.25, "0.25"],
    [500000, "500000"],
    [1e-12, "1e-12"],
    [0.05, "0.05"],
    [1e21, "1e21"],
    [-0, "-0"],
  ])("%f as %s", (number, text) => expect(printNumber(number)).toBe(text));

  it("types with all their parts", () => {
    const b = new Builder("f", { T: { min: 1, max: 4 } });
    const encoding = { kind: "scheme", scheme: "int4", group: 64, axis: 1 } as const;
    b.param("w", tensor("u8", [1024, 512], { encoding, layout: "panel64", shard: { axis: 0, parts: 2 } }));
    b.param("n", tensor("i32", [sym("T", 3), sym("T", 1, 1), sym("T", 2, -1)]));
    expect(print(b.finish()).split("\n")[0]).toBe(
      "func @f(%w: u8[1024, 512]<int4, group 64, axis 1>@panel64 shard(axis 0, parts 2), %n: i32[3*T, T+1, 2*T-1]) bounds {T: 1..4} {",
    );
  });
});

describe("refuses", () => {
  it.each([
    ["an op that does not exist", TAIL.replace("rms_norm", "rms_norn"), "text.ir:3:8", "did you mean rms_norm?"],
    ["a value before its definition", TAIL.replace("add %r, %x", "add %r, %1"), "text.ir:2:16", undefined],
    ["a value defined twice", TAIL.replace("%1 = rms", "%0 = rms"), "text.ir:3:3", undefined],
    ["a missing operand", TAIL.replace("add %r, %x", "add %r"), "text.ir:2:8", "add takes a, b"],
    ["an operand too many", TAIL.replace("add %r, %x", "add %r, %x, %x"), "text.ir:2:8", "add takes a, b"],
    ["an attribute that does not exist", TAIL.replace("{eps", "{epsilon"), "text.ir:3:25", "it has eps, dtype"],
    ["an attribute twice", TAIL.replace("dtype = bf16}", "eps = 1}"), "text.ir:3:37", undefined],
    ["an element type that does not exist", TAIL.replace("%x: bf16", "%x: bf17"), "text.ir:1:16", undefined],
    ["a layout that does not exist", TAIL.replace("%w: bf16[1024]", "%w: bf16[1024]@panel63"), "text.ir:1:64", undefined],
    ["too few types", TAIL.replace(" : bf16[T, 1024]\n  %1", "\n  %1"), "text.ir:2:8", undefined],
    ["a return that the head does not know", TAIL.replace("return %1", "return y = %1"), "text.ir:4:3", undefined],
    ["a return of another type", TAIL.replace("return %1", "return %w"), "text.ir:4:3", undefined],
    ["text that ends early", TAIL.slice(0, -3), "text.ir:4:12", undefined],
    ["a stray sign", TAIL.replace("add %r", "add ; %r"), "text.ir:2:12", undefined],
    ["two functions where one is expected", TAIL + TAIL, "text.ir", undefined],
    ["none", "// nothing here\n", "text.ir:1:1", undefined],
  ])("%s", (_, text, place, hint) => {
    let error: unknown;
    try {
      parse(text);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(Diagnostic);
    expect(error).toMatchObject({ code: "ir-syntax", place, hint });
  });

  it("any text that is not a graph, with a diagnostic", () => {
    const pieces = fc.constantFrom(...(TAIL.match(/\w+|\s+|[^\w\s]/g) as string[]), '"', "\\", "e5", "..", "-", "\0");
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 40 }), (words) => {
        try {
          parse(words.join(""));
        } catch (error) {
          expect(error).toBeInstanceOf(Diagnostic);
        }
      }),
      { numRuns: 500 },
    );
  });
});
