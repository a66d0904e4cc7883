/** The pages that are made from the sources. `npm run docs` writes them; test/docs fails when one is stale. */

import { cliPage } from "./cli.js";
import { kernelsPage } from "./kernels.js";
import { opsPage } from "./ops.js";
import { passesPage } from "./passes.js";

export const PAGES: { readonly [file: string]: () => string | Promise<string> } = {
  "docs/cli.md": cliPage,
  "docs/kernels.md": kernelsPage,
  "docs/ops.md": opsPage,
  "docs/passes.md": passesPage,
};
