import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Diagnostic } from "../../src/diagnostics.js";
import { parseLandscape, readLandscape } from "../../src/tune/landscape.js";
import { t4Text } from "./support.js";

const good = t4Text([
  { configuration: { block: 32, cached: true }, cost: 2 },
  { configuration: { block: 16, cached: true }, cost: 1.5 },
  { configuration: { block: 64, cached: false } },
]);

/** `good` after a change to its tree. */
function changed(change: (tree: { [key: string]: unknown; results: { [key: string]: unknown }[] }) => void): string {
  const tree = JSON.parse(good);
  change(tree);
  return JSON.stringify(tree);
}

/** The first of the results with something replaced. */
const withFirst = (fields: { readonly [key: string]: unknown }) => changed(({ results }) => Object.assign(results[0] as object, fields));

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "ernie-tune-"));
});
afterAll(() => rm(folder, { recursive: true }));

describe("T4 files", () => {
  test("plain and packed, whatever they are called", async () => {
    for (const [name, bytes] of [
      ["a.json", Buffer.from(good)],
      ["a.json.gz", gzipSync(good)],
      ["packed-but-called.json", gzipSync(good)],
    ] as const) {
      await writeFile(join(folder, name), bytes);
      const { space, costs, optimum } = await readLandscape(join(folder, name));
      expect(space.parameters.map(({ name, values }) => [name, values])).toEqual([
        ["block", [16, 32, 64]],
        ["cached", [true, false]],
      ]);
      expect([...costs]).toEqual([2, 1.5, Number.NaN]);
      expect(optimum).toBe(1.5);
      expect(space.configuration(2)).toEqual({ block: 64, cached: false });
    }
  });

  test("a failed entry may keep its time: invalidity decides", () => {
    const text = changed(({ results }) => Object.assign(results[1] as object, { invalidity: "correctness" }));
    expect(parseLandscape(text, "f").optimum).toBe(2);
  });

  test.each([
    ["no JSON", "{", "t4-syntax", "f", /not JSON/],
    ["a list", "[]", "t4-malformed", "f", /found \[\], expected a T4 object/],
    [
      "another version",
      changed((tree) => Object.assign(tree, { schema_version: "2.0.0" })),
      "t4-malformed",
      "f: schema_version",
      /"2.0.0"/,
    ],
    ["no results", '{"results": []}', "t4-malformed", "f: results", /expected a list of at least one result/],
    ["a result that is none", changed((tree) => tree.results.push(7 as never)), "t4-malformed", "f: results[3]", /found 7/],
    ["no configuration", withFirst({ configuration: undefined }), "t4-malformed", "f: results[0].configuration", /found nothing/],
    ["a nested value", withFirst({ configuration: { block: [1] } }), "t4-malformed", "f: results[0].configuration.block", /found \[1\]/],
    ["other parameters", withFirst({ configuration: { block: 1 } }), "t4-configurations", "f: results[1].configuration", /expected block/],
    ["one twice", withFirst({ configuration: { block: 16, cached: true } }), "t4-configurations", "f: results", /1 configurations twice/],
    ["no invalidity", withFirst({ invalidity: undefined }), "t4-malformed", "f: results[0].invalidity", /found nothing/],
    ["no objectives", withFirst({ objectives: [] }), "t4-malformed", "f: results[0].objectives", /found \[\]/],
    [
      "no such measurement",
      withFirst({ objectives: ["gflops"] }),
      "t4-malformed",
      "f: results[0].measurements",
      /no measurement of "gflops"/,
    ],
    [
      "a time of zero",
      withFirst({ measurements: [{ name: "time", value: 0 }] }),
      "t4-malformed",
      "f: results[0].measurements.value",
      /found 0/,
    ],
    [
      "a time that is text",
      withFirst({ measurements: [{ name: "time", value: "x" }] }),
      "t4-malformed",
      "f: results[0].measurements.value",
      /"x"/,
    ],
    ["nothing but failures", t4Text([{ configuration: { a: 1 } }]), "t4-no-valid", "f", /all of them failed/],
  ])("refuses %s", (_, text, code, place, message) => {
    const refused = () => parseLandscape(text, "f");
    expect(refused).toThrow(message);
    expect(refused).toThrow(expect.objectContaining({ code, place }));
  });

  test.each([
    ["a cut gzip file", gzipSync(good).subarray(0, 60), "t4-not-gzip"],
    ["bytes of another kind", Buffer.from([0xff, 0xfe, 0x00]), "t4-syntax"],
    ["an empty file", Buffer.alloc(0), "t4-syntax"],
  ])("refuses %s", async (_, bytes, code) => {
    const path = join(folder, "bad.json.gz");
    await writeFile(path, bytes);
    await expect(readLandscape(path)).rejects.toThrow(expect.objectContaining({ code }));
  });

  test("refuses what is not there, and a folder", async () => {
    await expect(readLandscape(join(folder, "none.json"))).rejects.toThrow(Diagnostic);
    await expect(readLandscape(folder)).rejects.toThrow(/no file/);
  });
});
