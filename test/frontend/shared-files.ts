/** Files that lie beside the repository and not in it: tests that want one skip, and say so, where it is missing. */

import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export function sharedPath(relative: string): string | undefined {
  const path = fileURLToPath(new URL(`../../../shared/${relative}`, import.meta.url));
  return existsSync(path) ? path : undefined;
}

export function shared(relative: string): string | undefined {
  const path = sharedPath(relative);
  return path === undefined ? undefined : readFileSync(path, "utf8");
}
