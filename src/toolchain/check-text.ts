/** Has the runtime itself look at the tokenizer of a package that is being built. The frontend reads names and ids of it alone (src/frontend/sentencepiece-pieces.ts). */

import { join } from "node:path";
import { execa } from "execa";
import { Diagnostic } from "../diagnostics.js";
import { projectPath } from "../project.js";
import { compileUnits, link, type ObjectFile } from "./cxx.js";
import { type NativeOptions, RUNTIME_FLAGS } from "./native.js";

/** The program's own object; the rest of it is the library's. */
export async function compileTextCheck({ compiler, cache, signal }: NativeOptions): Promise<ObjectFile> {
  const source = { source: "tools/check_text.cpp", flags: RUNTIME_FLAGS };
  const [object] = await compileUnits([source], { compiler, cache, signal, root: projectPath("runtime"), includeDirs: ["."] });
  return object as ObjectFile;
}

/** `objects`: of the program and of the package's library; `root`: the package's folder; `tokenizer`: the file that tokenizer.model was copied from. */
export async function checkText(objects: readonly ObjectFile[], root: string, tokenizer: string, options: NativeOptions): Promise<void> {
  const { compiler, cache, signal } = options;
  const { path } = await link({ compiler, cache, kind: "program", label: "check-text", objects, signal });
  const args = [join(root, "tokenizer.model"), join(root, "text.json")];
  const result = await execa(path, args, { reject: false, timeout: 60_000, ...(signal ? { cancelSignal: signal } : {}) });
  signal?.throwIfAborted();
  if (result.exitCode === 0) return;
  throw new Diagnostic({
    code: "tokenizer-refused",
    message: `found a tokenizer that the runtime refuses: ${result.stdout || result.stderr || result.shortMessage}`,
    place: tokenizer,
    hint: "fetch the tokenizer files of the model again",
  });
}
