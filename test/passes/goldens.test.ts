/**
 * Text in, text out: each `<pass>/*.ir` holds a graph, a line `// ----`, and what the pass makes of it, with what fired and what did not.
 * `BLESS=1` rewrites the second half; read the diff as a reviewer would.
 */

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { parse } from "../../src/ir/parse.js";
import { BUCKET_PASSES, fusionPasses } from "../../src/passes/pipeline.js";
import { passText, runPipeline } from "../../src/passes/run.js";

const SEPARATOR = "\n// ----\n";
const passes = [...new Map([...fusionPasses("cuda"), ...BUCKET_PASSES].map((pass) => [pass.name, pass])).values()];

describe.each(passes)("$name", (pass) => {
  const folder = fileURLToPath(new URL(`./${pass.name}/`, import.meta.url));
  const files = readdirSync(folder).filter((name) => name.endsWith(".ir"));

  it("has a case that it changes and a near miss", () => {
    expect(files.some((name) => name.startsWith("near-miss"))).toBe(true);
    expect(files.some((name) => !name.startsWith("near-miss"))).toBe(true);
  });

  it.each(files)("%s", (name) => {
    const [input = "", expected] = readFileSync(folder + name, "utf8").split(SEPARATOR);
    const { graph, reports } = runPipeline(parse(input, name), [pass]);
    const [report] = reports;
    if (!report) throw new Error("the pass did not run");
    const output = passText(report, [graph]);
    if (process.env.BLESS) writeFileSync(folder + name, `${input.trimEnd()}${SEPARATOR}${output}`);
    else expect(output).toBe(expected);
    expect(report.changed).toBe(!name.startsWith("near-miss"));
  });
});
