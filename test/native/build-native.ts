/**
 * Compiles C++ tests and tools into build/test-tools, object by object. An object's name is a hash of its flags, its source and the headers that
 * this reaches, so a second run compiles nothing and two test files never disturb each other. What a test does is its own business.
 * With SANITIZE=address,undefined (or thread) everything is compiled with those sanitizers: `npm run test:sanitize`. CXX names the compiler.
 */

import { createHash } from "node:crypto";
import { mkdir, readFile, rename, stat } from "node:fs/promises";
import { basename, dirname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";

export const root = fileURLToPath(new URL("../../", import.meta.url));
const out = join(root, "build", "test-tools");
const includeFolders = ["runtime", "runtime/src", "runtime/include", "test/native"];

/** What this run compiles in, "" for nothing. Timing and memory bounds mean little then. */
export const sanitizers = process.env.SANITIZE ?? "";

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
    ...includeFolders.map((folder) => `-I${folder}`),
    ...(program.flags ?? []),
    ...(sanitizers ? ["-O1", `-fsanitize=${sanitizers}`, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"] : []),
  ];
  await mkdir(out, { recursive: true });

  const pending = [...program.sources];
  const objects = new Map<string, string>();
  const worker = async (): Promise<void> => {
    for (let source = pending.shift(); source !== undefined; source = pending.shift()) {
      const hash = createHash("sha256").update([compiler, ...flags, source].join("\0"));
      for (const text of await closure(source)) hash.update(text);
      const object = join(out, `${basename(source, ".cpp")}-${hash.digest("hex").slice(0, 16)}.o`);
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

/** Texts of a source and of every header of ours that it reaches, in order of their paths. */
async function closure(source: string): Promise<readonly string[]> {
  const seen = new Map<string, string>();
  const visit = async (path: string): Promise<boolean> => {
    if (seen.has(path)) return true;
    const text = await readFile(join(root, path), "utf8").catch(() => undefined);
    if (text === undefined) return false;
    seen.set(path, text);
    for (const [, name] of text.matchAll(/^[ \t]*#[ \t]*include[ \t]*"([^"]+)"/gm)) {
      for (const folder of [dirname(path), ...includeFolders]) if (await visit(normalize(join(folder, name as string)))) break;
    }
    return true;
  };
  await visit(source);
  return [...seen].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, text]) => text);
}
