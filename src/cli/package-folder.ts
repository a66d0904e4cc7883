/** Opens a generated package from the command line, through its own index.js, exactly as a user's program would. */

import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { Diagnostic } from "../diagnostics.js";
import type { Engine, LoadOptions } from "../host/api.js";

export async function openPackage(folder: string, options: LoadOptions = {}): Promise<Engine> {
  const root = resolve(folder);
  for (const file of ["manifest.json", "index.js"]) {
    if (!existsSync(join(root, file))) {
      throw new Diagnostic({
        code: "package-not-found",
        place: root,
        message: `no ${file} in this folder: expected a package that \`ernie-compile build\` made`,
        hint: "run `ernie-compile build <model> -o <folder>` first",
      });
    }
  }
  const module = (await import(pathToFileURL(join(root, "index.js")).href)) as { load: (options?: LoadOptions) => Promise<Engine> };
  return module.load(options);
}

/** Runs `work` with the engine, and disposes of it however that ends. */
export async function withEngine<T>(folder: string, options: LoadOptions, work: (engine: Engine) => Promise<T>): Promise<T> {
  const engine = await openPackage(folder, options);
  try {
    return await work(engine);
  } finally {
    await engine.dispose();
  }
}
