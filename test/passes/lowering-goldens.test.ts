/**
 * Text in, text out, for the passes that choose layouts and kernels and give everything a place; as in goldens.test.ts, but a pass may make several
 * programs of one. The target and the limits are those of lowering.ts.
 */

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { parse } from "../../src/ir/parse.js";
import { passText, runPrograms } from "../../src/passes/run.js";
import { loweringPasses } from "./lowering.js";

const SEPARATOR = "\n// ----\n";

describe.each(loweringPasses())("$name", (pass) => {
  const folder = fileURLToPath(new URL(`./${pass.name}/`, import.meta.url));
  const files = readdirSync(folder).filter((name) => name.endsWith(".ir"));

  it("has a case that it changes and a near miss", () => {
    expect(files.some((name) => name.startsWith("near-miss"))).toBe(true);
    expect(files.some((name) => !name.startsWith("near-miss"))).toBe(true);
  });

  it.each(files)("%s", (name) => {
    const [input = "", expected] = readFileSync(folder + name, "utf8").split(SEPARATOR);
    const { graphs, reports } = runPrograms([parse(input, name)], [pass]);
    const [report] = reports;
    if (!report) throw new Error("the pass did not run");
    const output = passText(report, graphs);
    if (process.env.BLESS) writeFileSync(folder + name, `${input.trimEnd()}${SEPARATOR}${output}`);
    else expect(output).toBe(expected);
    expect(report.changed).toBe(!name.startsWith("near-miss"));
  });
});
