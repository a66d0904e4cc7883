import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseLandscape } from "../../src/tune/landscape.js";
import { scanT4, T4SyntaxError } from "../../src/tune/t4-scan.js";
import { t4Text } from "./support.js";

/** The tree again, from the pieces. */
function scanned(text: string | Uint8Array): unknown {
  const members: [string, unknown][] = [];
  let results: unknown[] = [];
  const whole = scanT4(typeof text === "string" ? new TextEncoder().encode(text) : text, {
    onMember: (name, value) => members.push([name, value]),
    onResults: () => {
      results = [];
      members.push(["results", results]);
    },
    onResult: (value, index) => {
      expect(index).toBe(results.length);
      results.push(value);
    },
  });
  // Not through an object literal, in which `__proto__` would be no key.
  return whole ? whole.other : Object.fromEntries(members);
}

const tree = fc.oneof(
  fc.record({ schema_version: fc.string(), results: fc.array(fc.jsonValue()), metadata: fc.jsonValue() }, { requiredKeys: [] }),
  fc.jsonValue(),
);
const spaced = fc.constantFrom(undefined, 1, "\t");

describe("splitting a T4 file", () => {
  test("gives what JSON.parse gives", () => {
    fc.assert(
      fc.property(tree, spaced, (value, indent) => {
        const text = JSON.stringify(value, null, indent);
        expect(scanned(text)).toEqual(JSON.parse(text));
      }),
      { numRuns: 300 },
    );
  });

  test("refuses what JSON.parse refuses, and nothing else", () => {
    const damage = fc.record({
      at: fc.nat(),
      cut: fc.nat(3),
      put: fc.constantFrom("", ",", "}", "]", "[", "{", '"', ":", "\\", "1", " ", "é"),
    });
    fc.assert(
      fc.property(tree, spaced, damage, (value, indent, { at, cut, put }) => {
        const text = JSON.stringify(value, null, indent);
        const from = at % (text.length + 1);
        const damaged = text.slice(0, from) + put + text.slice(from + cut);
        let parsed: unknown;
        try {
          parsed = JSON.parse(damaged);
        } catch {
          expect(() => scanned(damaged)).toThrow(T4SyntaxError);
          return;
        }
        expect(scanned(damaged)).toEqual(parsed);
      }),
      { numRuns: 1000 },
    );
  });

  test.each([
    ...["", " ", "{", '{"a"', '{"a":', '{"a":1', '{"a":1,}', '{"results":[', '{"results":[{}', '{"results":[{},]}', '{"results":[{} {}]}'],
    ...["{}{}", "{1:2}", '"', '{"a":"\\', '{"results":[{]}]}'],
  ])("refuses %s", (text) => {
    expect(() => JSON.parse(text)).toThrow();
    expect(() => scanned(text)).toThrow(T4SyntaxError);
  });

  test("a file that was cut says so, and where", () => {
    const good = t4Text([{ configuration: { a: 1 }, cost: 1 }]);
    expect(() => parseLandscape(good.slice(0, -20), "f")).toThrow(expect.objectContaining({ code: "t4-syntax", place: "f" }));
    expect(() => parseLandscape(good.slice(0, -20), "f")).toThrow(/not JSON at byte \d+: /);
  });

  test("refuses results that are listed twice, and bytes that are no UTF-8", () => {
    const good = t4Text([{ configuration: { a: 1 }, cost: 1 }]);
    expect(() => parseLandscape(good.replace(/\}$/, ',"results":[]}'), "f")).toThrow(/results twice/);
    const bytes = new TextEncoder().encode(good.replace('"a"', '"ab"'));
    bytes[bytes.indexOf(0x62, bytes.indexOf(0x61))] = 0xff;
    expect(() => parseLandscape(bytes, "f")).toThrow(/expected UTF-8|not JSON/);
  });
});
