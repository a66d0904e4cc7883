import { mkdir, mkdtemp, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { Cache, defaultCacheRoot, sha256 } from "../../src/toolchain/cache.js";

let root: string;
let cache: Cache;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "ern-cache-"));
  cache = new Cache(root);
});
afterEach(async () => rm(root, { recursive: true, force: true }));

const put = (name: string, text: string) => cache.put(sha256(name), "object", name, "object.o", (path) => writeFile(path, text));

it("gives back what was put, and keeps the first of two", async () => {
  const made = await put("a", "one");
  expect(await cache.get(sha256("a"))).toEqual(made);
  expect(await put("a", "one")).toEqual(made);
  expect(await cache.get(sha256("b"))).toBeUndefined();
});

it("leaves nothing when making fails", async () => {
  await expect(cache.put(sha256("a"), "object", "a", "object.o", async () => Promise.reject(new Error("no")))).rejects.toThrow("no");
  expect(await cache.list()).toEqual([]);
  expect(await cache.get(sha256("a"))).toBeUndefined();
});

it("prunes what was not used for long, then the longest unused beyond the size", async () => {
  for (const [i, name] of ["a", "b", "c"].entries()) {
    const { path } = await put(name, "12345");
    const day = new Date(Date.now() - (10 - i) * 86_400_000);
    await utimes(join(path, ".."), day, day);
  }
  expect((await cache.list()).map(({ label }) => label)).toEqual(["c", "b", "a"]);
  expect(await cache.prune({ olderThanDays: 9.5 })).toEqual({ removed: 1, bytes: 5 });
  expect(await cache.prune({ maxBytes: 5 })).toEqual({ removed: 1, bytes: 5 });
  expect((await cache.list()).map(({ label }) => label)).toEqual(["c"]);
  expect((await cache.prune({ all: true })).removed).toBe(1);
});

it("removes what a killed build left, not what a living one writes", async () => {
  await mkdir(join(root, "v1", "tmp-999999999-abc"), { recursive: true });
  await mkdir(join(root, "v1", `tmp-${process.pid}-abc`), { recursive: true });
  await cache.prune({});
  const { readdir } = await import("node:fs/promises");
  expect(await readdir(join(root, "v1"))).toEqual([`tmp-${process.pid}-abc`]);
});

it("says where it can't write", async () => {
  await writeFile(join(root, "file"), "");
  await expect(new Cache(join(root, "file")).put(sha256("a"), "object", "a", "object.o", async () => undefined)).rejects.toMatchObject({
    code: "cache-not-writable",
  });
});

it("lies where the environment says", () => {
  expect(defaultCacheRoot({ ERNIE_COMPILE_CACHE: "/c" })).toBe("/c");
  expect(defaultCacheRoot({ XDG_CACHE_HOME: "/x" })).toBe("/x/ernie-compile");
});
