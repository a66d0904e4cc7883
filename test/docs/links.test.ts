/** Links between the project's own pages and into its code lead somewhere. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, it } from "vitest";
import { ROOT } from "../../scripts/docs/source.js";

const FOLDERS = [".", "docs", "examples", "examples/c", "examples/tune", "bench"];
const pages = FOLDERS.flatMap((folder) =>
  readdirSync(join(ROOT, folder))
    .filter((name) => name.endsWith(".md"))
    .map((name) => join(folder, name)),
);

it.each(pages)("%s", (page) => {
  const text = readFileSync(join(ROOT, page), "utf8").replace(/^```[\s\S]*?^```/gm, "");
  const targets = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1] as string);
  const local = targets.filter((target) => !/^[a-z]+:/.test(target) && !target.startsWith("#"));
  const broken = local.filter((target) => !existsSync(join(ROOT, dirname(page), target.replace(/#.*/, ""))));
  expect(broken).toEqual([]);
});
