/** Opens a generated package from the command line, through its own index.js, exactly as a user's program would. */

import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { Diagnostic } from "../diagnostics.js";
import type { Engine, LoadOptions } from "../host/api.js";
import { packageNotFound } from "./manifest.js";
import { messageOf } from "./terminal.js";

export async function openPackage(folder: string, options: LoadOptions = {}): Promise<Engine> {
  const root = resolve(folder);
  const index = join(root, "index.js");
  for (const file of ["manifest.json", "index.js"]) if (!existsSync(join(root, file))) throw packageNotFound(root, file);
  let module: { load: (options?: LoadOptions) => Promise<Engine> };
  try {
    module = (await import(pathToFileURL(index).href)) as typeof module;
  } catch (error) {
    if (error instanceof Diagnostic) throw error;
    throw new Diagnostic({
      code: "package-changed",
      place: index,
      message: `found code that does not run: ${messageOf(error)}`,
      hint: "build the package again with `ernie-compile build`",
      cause: error,
    });
  }
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
