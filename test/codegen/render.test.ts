/** A template and its view fit each other exactly, also in branches that are not taken. */

import Handlebars from "handlebars";
import { describe, expect, it } from "vitest";
import { checkView, renderTemplate } from "../../src/codegen/render.js";
import type { View } from "../../src/kernels/view.js";

function check(template: string, view: View): void {
  checkView("test", Handlebars.parse(template), view);
}

describe("a view", () => {
  it.each<[string, View]>([
    ["{{a}} {{b.c}}", { a: 1, b: { c: "x" } }],
    ["{{#if on}}{{a}}{{else}}{{b}}{{/if}}", { on: false, a: 1, b: 2 }],
    ["{{#each list}}{{name}} {{../a}}{{/each}}", { a: 1, list: [{ name: "x" }, { name: "y" }] }],
    ["{{#each list}}{{this}}{{/each}}", { list: [1, 2] }],
    ["{{#unless off}}{{a}}{{/unless}} {{! a remark }}", { off: true, a: 1 }],
    // Nothing of an empty list can be looked at.
    ["{{#each list}}{{anything}}{{/each}}", { list: [] }],
  ])("that fits %s", (template, view) => {
    expect(() => check(template, view)).not.toThrow();
  });

  it.each<[string, View, string]>([
    ["{{a}} {{b}}", { a: 1 }, "the view has no b"],
    ["{{#if on}}{{a}}{{/if}}", { on: false }, "the view has no a"],
    ["{{#if on}}x{{/if}}", {}, "the view has no on"],
    ["{{#if on}}{{a}}{{else}}{{b}}{{/if}}", { on: true, a: 1 }, "the view has no b"],
    ["{{#each list}}{{name}}{{/each}}", { list: [{ name: 1 }, {}] }, "the view has no name"],
    ["{{b.c}}", { b: { d: 1 } }, "the view has no b.c"],
    ["{{#each a}}x{{/each}}", { a: 1 }, "#each over 1"],
    ["{{a}}", { a: 1, b: 2 }, "the view's field b is not used"],
    ["{{b.c}}", { b: { c: 1, d: 2 } }, "the view's field b.d is not used"],
    ["{{#each list}}{{name}}{{/each}}", { list: [{ name: 1, other: 2 }] }, "the view's field list[].other is not used"],
    ["{{#with a}}{{b}}{{/with}}", { a: { b: 1 } }, "#with is more than our templates use"],
    ["{{lookup a b}}", { a: 1, b: 2, lookup: 1 }, "the view's field a is not used"],
    ["{{toString}}", {}, "the view has no toString"],
    ["{{> partial}}", {}, "more than our templates use"],
  ])("that does not fit %s", (template, view, message) => {
    expect(() => check(template, view)).toThrow(message);
  });

  it("is checked before it is rendered, and the error names template and line", () => {
    expect(() => renderTemplate("package/index_esm", {})).toThrow(
      expect.objectContaining({ kind: "bug", place: expect.stringMatching(/^templates\/package\/index_esm\.hbs:\d+$/) }),
    );
    expect(() => renderTemplate("package/index_esm", { head: "x", more: 1 })).toThrow("the view's field more is not used");
  });

  it("is not escaped: C++ and JavaScript are no HTML", () => {
    expect(renderTemplate("package/index_esm", { head: 'a < b && "c"' })).toContain('// a < b && "c"\n');
  });
});
