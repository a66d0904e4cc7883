/**
 * Compiles C++ tests into build/test-tools, object by object. An object's name is a hash of its flags, its source and every header beside it, so a
 * second run compiles nothing and two test files never disturb each other. What a test does is its own business.
 */

import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rename, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";

export const root = fileURLToPath(new URL("../../", import.meta.url));
const out = join(root, "build", "test-tools");
const headerFolders = ["runtime/src", "runtime/include", "test/native"];

export interface NativeProgram {
  readonly name: string;
  /** Relative to the repository. */
  readonly sources: readonly string[];
  /** On top of C++20, -O2, warnings as errors and the include paths. */
  readonly flags?: readonly string[];
}

/** Path of the program, compiled if need be. */
export async function buildNative(program: NativeProgram): Promise<string> {
  const compiler = process.env.CXX ?? "g++";
  const flags = [
    "-std=c++20",
    "-O2",
    "-g1",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-pthread",
    ...headerFolders.map((folder) => `-I${folder}`),
    ...(program.flags ?? []),
  ];
  const headers = await hashHeaders();
  await mkdir(out, { recursive: true });

  const pending = [...program.sources];
  const objects = new Map<string, string>();
  const worker = async (): Promise<void> => {
    for (let source = pending.shift(); source !== undefined; source = pending.shift()) {
      const hash = createHash("sha256").update([compiler, ...flags, source, headers].join("\0"));
      const object = join(
        out,
        `${basename(source, ".cpp")}-${hash
          .update(await readFile(join(root, source)))
          .digest("hex")
          .slice(0, 16)}.o`,
      );
      const current = source;
      await produce(object, (partial) => execa(compiler, [...flags, "-c", current, "-o", partial], { cwd: root }));
      objects.set(source, object);
    }
  };
  await Promise.all([worker(), worker()]);

  const inputs = program.sources.map((source) => objects.get(source) ?? source);
  const hash = createHash("sha256")
    .update([compiler, ...flags, ...inputs].join("\0"))
    .digest("hex")
    .slice(0, 16);
  const binary = join(out, `${program.name}-${hash}`);
  await produce(binary, (partial) => execa(compiler, [...flags, ...inputs, "-o", partial], { cwd: root }));
  return binary;
}

/** Writes beside and renames into place, unless it is there already. */
async function produce(path: string, make: (partial: string) => PromiseLike<unknown>): Promise<void> {
  const present = await stat(path).then(
    () => true,
    () => false,
  );
  if (present) return;
  const partial = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}`;
  await make(partial);
  await rename(partial, path);
}

async function hashHeaders(): Promise<string> {
  const hash = createHash("sha256");
  for (const folder of headerFolders) {
    const names = await readdir(join(root, folder)).catch(() => []);
    for (const name of names.filter((each) => /\.(hpp|h)$/.test(each)).sort())
      hash.update(name).update(await readFile(join(root, folder, name)));
  }
  return hash.digest("hex");
}
