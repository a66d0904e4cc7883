import { describe, expect, test } from "vitest";
import { Diagnostic } from "../../src/diagnostics.js";
import { parameter, Space } from "../../src/tune/space.js";

const tiles = [parameter("block", [64, 16, 32]), parameter("unroll", [1, 2, 4, 8]), parameter("layout", ["row", "panel", "tile"])];

describe("a space", () => {
  test("sorts numbers, keeps the order of names, and knows which order means something", () => {
    expect(tiles.map(({ values }) => values)).toEqual([
      [16, 32, 64],
      [1, 2, 4, 8],
      ["row", "panel", "tile"],
    ]);
    expect(tiles.map(({ ordered }) => ordered)).toEqual([true, true, false]);
  });

  test("enumerates what the constraint allows, and finds each again by its codes", () => {
    const space = Space.enumerate(tiles, ({ block, unroll }) => (block as number) * (unroll as number) <= 128);
    expect(space.size).toBe(3 * (4 + 3 + 2));
    expect(space.configuration(0)).toEqual({ block: 16, unroll: 1, layout: "row" });
    for (let i = 0; i < space.size; i++) expect(space.find(space.codes.subarray(i * 3, i * 3 + 3))).toBe(i);
    expect(space.find([2, 3, 0])).toBeUndefined();
    for (let i = 0; i < space.size; i++) expect(space.indexOf(space.configuration(i))).toBe(i);
    expect(space.indexOf({ block: 64, unroll: 8, layout: "row" })).toBeUndefined();
    expect(space.indexOf({ block: 17, unroll: 1, layout: "row" })).toBeUndefined();
  });

  test("neighbours differ in one parameter and none is forbidden; steps pass over forbidden values", () => {
    const space = Space.enumerate(tiles, ({ block, unroll }) => !(block === 32 && unroll === 1));
    for (let i = 0; i < space.size; i++) {
      const own = space.configuration(i);
      const near = space.neighbours(i);
      expect(new Set(near).size).toBe(near.length);
      for (const other of near) {
        const there = space.configuration(other);
        expect(Object.keys(own).filter((name) => own[name] !== there[name])).toHaveLength(1);
      }
      for (const other of space.adjacent(i)) expect(near).toContain(other);
    }
    const low = space.find([0, 0, 0]) as number;
    expect(space.adjacent(low).map((i) => space.configuration(i))).toContainEqual({ block: 64, unroll: 1, layout: "row" });
  });

  test.each([
    ["a constraint that leaves nothing", () => Space.enumerate(tiles, () => false), /leaves no configuration/],
    ["no parameters", () => Space.enumerate([]), /expected at least one/],
    ["a parameter without values", () => parameter("block", []), /found no value/],
    ["a parameter twice", () => Space.enumerate([...tiles, parameter("block", [1])]), /parameter block twice/],
    ["a configuration twice", () => Space.of([parameter("a", [1, 2])], [{ a: 1 }, { a: 1 }]), /1 configurations twice/],
    ["a value that no parameter has", () => Space.of([parameter("a", [1, 2])], [{ a: 3 }]), /found 3, no value of a/],
    [
      "more combinations than can be tried",
      () =>
        Space.enumerate(
          Array.from({ length: 9 }, (_, p) =>
            parameter(
              `p${p}`,
              Array.from({ length: 10 }, (_, v) => v),
            ),
          ),
        ),
      /found 1000000000 combinations/,
    ],
  ])("refuses %s", (_, make, message) => {
    expect(make).toThrow(Diagnostic);
    expect(make).toThrow(message);
  });
});
