/** Where the compiler's own files lie. src/ and dist/ are equally deep, so this holds for both; an installed package has no src/. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const ROOT = new URL("../", import.meta.url);

/** Of runtime, templates, the bundled host and so on. */
export function projectPath(path: string): string {
  return fileURLToPath(new URL(path, ROOT));
}

export function compilerVersion(): string {
  return (JSON.parse(readFileSync(new URL("package.json", ROOT), "utf8")) as { version: string }).version;
}
