/** `tune simulate` as others' scripts call it: the exact form of its JSON, and what it refuses. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { DEFAULT_STRATEGY, STRATEGIES } from "../../src/tune/strategies/index.js";
import { bowlText, t4Text } from "../tune/support.js";
import { inProcess } from "./in-process.js";

let folder = "";
let bowl = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ernie-simulate-"));
  bowl = join(folder, "bowl_T4.json.gz");
  writeFileSync(bowl, gzipSync(bowlText()));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("tune simulate", () => {
  it("prints strategy, optimum, and best/optimum by evaluations of each seed, and nothing else", async () => {
    const { exitCode, stdout, stderr } = await inProcess("tune", "simulate", bowl, "--seeds", "3", "--json");
    expect([exitCode, stderr]).toEqual([0, ""]);
    const result = JSON.parse(stdout);
    expect(Object.keys(result)).toEqual(["strategy", "optimum", "seeds"]);
    expect(result.strategy).toBe(DEFAULT_STRATEGY.name);
    expect(result.optimum).toBeGreaterThan(1);
    expect(result.seeds.map(({ seed }: { seed: number }) => seed)).toEqual([1, 2, 3]);
    for (const entry of result.seeds) {
      expect(Object.keys(entry)).toEqual(["seed", "best"]);
      expect(Object.keys(entry.best)).toEqual(["20", "50", "100", "200", "400"]);
      for (const ratio of Object.values(entry.best)) expect(ratio).toBeGreaterThanOrEqual(1);
    }
  });

  it.each(STRATEGIES.map(({ name }) => name))("gives the same bytes again with --strategy %s", async (name) => {
    const once = await inProcess("tune", "simulate", bowl, "--strategy", name, "--seeds", "2", "--trials", "50", "--json");
    const again = await inProcess("tune", "simulate", bowl, "--strategy", name, "--seeds", "2", "--trials", "50", "--json");
    expect(once.exitCode).toBe(0);
    expect(again.stdout).toBe(once.stdout);
    expect(JSON.parse(once.stdout).strategy).toBe(name);
    expect(Object.keys(JSON.parse(once.stdout).seeds[0].best)).toEqual(["20", "50"]);
  });

  it("prints a table for people, with the median", async () => {
    const { stdout } = await inProcess("tune", "simulate", bowl, "--strategy", "random", "--seeds", "5");
    expect(stdout).toMatch(/^strategy random, optimum 1\.\d+; best\/optimum after evaluations:$/m);
    expect(stdout.trimEnd().split("\n")).toHaveLength(1 + 1 + 5 + 1);
    expect(stdout).toMatch(/^median( +\d\.\d{4}){5}$/m);
  });

  it("shows a dash, and null in JSON, where every configuration so far failed", async () => {
    const path = join(folder, "barren.json");
    writeFileSync(path, t4Text(Array.from({ length: 2000 }, (_, a) => ({ configuration: { a }, cost: a === 0 ? 1 : undefined }))));
    const flags = ["tune", "simulate", path, "--strategy", "random", "--trials", "20"];
    expect((await inProcess(...flags)).stdout).toMatch(/^1 +-$/m);
    expect(JSON.parse((await inProcess(...flags, "--json")).stdout).seeds).toEqual([{ seed: 1, best: { 20: null } }]);
  });

  it.each([
    ["a strategy that is none", ["--strategy", "luck"], 2, /expected one of model/],
    ["a budget of zero", ["--trials", "0"], 2, /expected an integer from 20/],
    ["no seeds", ["--seeds", "0"], 2, /expected an integer from 1/],
  ])("refuses %s", async (_, flags, code, message) => {
    const { exitCode, stderr } = await inProcess("tune", "simulate", bowl, ...flags);
    expect(exitCode).toBe(code);
    expect(stderr).toMatch(message);
  });

  it("refuses a malformed file with a code, and as one JSON object with --json", async () => {
    const path = join(folder, "bad.json");
    writeFileSync(path, '{"schema_version": "1.0.0", "results": [{}]}');
    const { exitCode, stderr } = await inProcess("tune", "simulate", path);
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(
      /^t4-malformed: found nothing, expected an object of parameters\n {2}--> .*bad\.json: results\[0\]\.configuration/,
    );
    const { stdout } = await inProcess("tune", "simulate", path, "--json");
    expect(JSON.parse(stdout).error).toMatchObject({ code: "t4-malformed", kind: "input" });
  });
});
