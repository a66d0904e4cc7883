/** The generated pages say what the sources say. `npm run docs` rewrites them. */

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, it } from "vitest";
import { PAGES } from "../../scripts/docs/pages.js";
import { ROOT } from "../../scripts/docs/source.js";

it.each(Object.keys(PAGES))("%s is up to date", async (file) => {
  const path = join(ROOT, file);
  const text = await PAGES[file]?.();
  if (process.env.BLESS && text !== undefined) {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
  }
  expect(readFileSync(path, "utf8") === text, `${file} is stale: run \`npm run docs\` and read the diff`).toBe(true);
});
