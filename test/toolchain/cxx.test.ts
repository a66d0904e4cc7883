import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Cache } from "../../src/toolchain/cache.js";
import { type Compiler, findCompiler } from "../../src/toolchain/compiler.js";
import { type CompileOptions, compileUnits, link } from "../../src/toolchain/cxx.js";

let root: string;
let compiler: Compiler;
let cache: Cache;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "ern-cxx-"));
  cache = new Cache(join(root, "cache"));
  compiler = await findCompiler();
});
afterAll(async () => rm(root, { recursive: true, force: true }));

async function sources(name: string, files: Record<string, string>): Promise<CompileOptions> {
  const dir = join(root, name);
  for (const [path, text] of Object.entries(files)) {
    await mkdir(join(dir, path, ".."), { recursive: true });
    await writeFile(join(dir, path), text);
  }
  return { compiler, cache, root: dir, includeDirs: ["include"] };
}

const FILES = {
  "src/a.cpp": '#include "b.hpp"\nextern "C" int answer() { return VALUE; }\n',
  "include/b.hpp": '#pragma once\n#include "deep/c.hpp"\n',
  "include/deep/c.hpp": "#define VALUE 42\n",
};
const UNIT = { source: "src/a.cpp", flags: ["-O1"] };

describe("compileUnits", () => {
  it("compiles once, whatever the folder, and again when a header deep below changes", async () => {
    const [first] = await compileUnits([UNIT], await sources("one", FILES));
    const [second] = await compileUnits([UNIT], await sources("two", FILES));
    const [third] = await compileUnits([UNIT], await sources("two", { "include/deep/c.hpp": "#define VALUE 43\n" }));
    const [fourth] = await compileUnits([{ ...UNIT, flags: ["-O2"] }], await sources("one", FILES));
    expect([first?.cached, second?.cached, third?.cached, fourth?.cached]).toEqual([false, true, false, false]);
    expect(second?.key).toBe(first?.key);
    expect(new Set([first?.key, third?.key, fourth?.key]).size).toBe(3);
  });

  it("puts no path of this machine into an object", async () => {
    const [object] = await compileUnits([UNIT], await sources("one", FILES));
    expect((await readFile(object?.path as string)).includes(root)).toBe(false);
  });

  it("says what the compiler said, and caches nothing", async () => {
    const options = await sources("bad", { "src/a.cpp": "int f() { return nonsense; }\n" });
    const before = (await cache.list()).length;
    await expect(compileUnits([UNIT], options)).rejects.toMatchObject({
      code: "cxx-failed",
      kind: "environment",
      message: expect.stringContaining("nonsense"),
    });
    expect((await cache.list()).length).toBe(before);
  });

  it("stops at the first failure, and says which unit it was", async () => {
    const units = Array.from({ length: 12 }, (_, i) => ({ source: `src/u${i}.cpp`, flags: [] }));
    const files = Object.fromEntries(
      units.map(({ source }, i) => [source, i === 1 ? "#error one is broken\n" : `int many_${i}() { return ${i}; }\n`]),
    );
    const options = await sources("many", files);
    const before = (await cache.list()).length;
    await expect(compileUnits(units, options)).rejects.toMatchObject({
      code: "cxx-failed",
      place: "src/u1.cpp",
      message: expect.stringContaining("one is broken"),
    });
    expect((await cache.list()).length - before).toBeLessThan(11);
  });

  it("ends when it is cancelled", async () => {
    const options = await sources("one", { ...FILES, "include/deep/c.hpp": "#define VALUE 45\n" });
    await expect(compileUnits([UNIT], { ...options, signal: AbortSignal.abort() })).rejects.toMatchObject({ name: "AbortError" });
  });

  it("makes an entry that was cut short again", async () => {
    const options = await sources("cut", { ...FILES, "include/deep/c.hpp": "#define VALUE 44\n" });
    const [object] = await compileUnits([UNIT], options);
    await writeFile(object?.path as string, "short");
    const [again] = await compileUnits([UNIT], options);
    expect(again?.cached).toBe(false);
  });
});

describe("link", () => {
  it("links a library that shows what the script names, from the cache the second time", async () => {
    const objects = await compileUnits([UNIT], await sources("one", FILES));
    const options = {
      compiler,
      cache,
      kind: "library",
      label: "libanswer.so",
      objects,
      versionScript: "{ global: answer; local: *; };\n",
    } as const;
    const first = await link(options);
    const second = await link(options);
    expect(second).toEqual(first);
    expect((await readFile(first.path)).includes(root)).toBe(false);
  });
});

describe("findCompiler", () => {
  it("names what is missing, and the remedy", async () => {
    await expect(findCompiler("no-such-c++")).rejects.toMatchObject({
      code: "cxx-missing",
      place: "--cxx",
      hint: expect.stringContaining("apt install"),
    });
    await expect(findCompiler(undefined, { PATH: process.env.PATH, CXX: "/bin/false" })).rejects.toMatchObject({
      code: "cxx-missing",
      place: "CXX",
    });
  });

  it("refuses an old one", async () => {
    const old = join(root, "old-g++");
    await writeFile(
      old,
      '#!/bin/sh\nif [ "$1" = -dumpmachine ]; then echo x86_64-linux-gnu; else echo "g++ (Debian 8.3.0-6) 8.3.0"; fi\n',
      { mode: 0o755 },
    );
    await expect(findCompiler(old)).rejects.toMatchObject({ code: "cxx-too-old", message: expect.stringContaining("gcc 8.3.0") });
  });
});
