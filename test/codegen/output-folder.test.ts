import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { PACKAGE_MAKER, type RootFile, readManifestBuild, withOutputFolder } from "../../src/codegen/output-folder.js";

let root: string;
let out: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "ern-out-"));
  out = join(root, "package");
});
afterEach(async () => rm(root, { recursive: true, force: true }));

const A = "a".repeat(16);
const B = "b".repeat(16);
const LOCK = ".ernie-compile.lock";

async function buildInto(folder: string, hash: string, text = hash): Promise<string> {
  return withOutputFolder(folder, async (staged) => {
    await writeFile(join(staged.dir, "code"), text);
    const rootFiles = new Map<RootFile, string>([["index.js", text]]);
    return staged.commit(hash, rootFiles, (build) => JSON.stringify({ compiler: { name: PACKAGE_MAKER }, build }));
  });
}

describe("withOutputFolder", () => {
  it("keeps the build before for whoever runs it, and removes the one before that", async () => {
    await buildInto(out, A);
    expect((await readdir(out)).sort()).toEqual([`build-${A}`, "index.js", "manifest.json"]);
    await buildInto(out, B);
    expect(await readManifestBuild(out)).toBe(`build-${B}`);
    expect((await readdir(out)).sort()).toEqual([`build-${A}`, `build-${B}`, "index.js", "manifest.json"]);
    await buildInto(out, B);
    expect(await readManifestBuild(out)).toBe(`build-${B}-2`);
    expect((await readdir(out)).sort()).toEqual([`build-${B}`, `build-${B}-2`, "index.js", "manifest.json"]);
  });

  it("leaves the old package when a build fails", async () => {
    await buildInto(out, A);
    await expect(
      withOutputFolder(out, async (staged) => {
        await writeFile(join(staged.dir, "code"), "half");
        throw new Error("no more");
      }),
    ).rejects.toThrow("no more");
    expect(await readManifestBuild(out)).toBe(`build-${A}`);
    expect((await readdir(out)).sort()).toEqual([`build-${A}`, "index.js", "manifest.json"]);
  });

  it("takes up a folder that a killed first build left, at any of its points", async () => {
    for (const left of [["build-tmp-0123456789ab"], [`build-${B}`], [`build-${B}`, "index.js"], [".tmp-0123456789ab"]]) {
      await mkdir(out, { recursive: true });
      for (const name of left) await (name.startsWith("build") ? mkdir(join(out, name)) : writeFile(join(out, name), ""));
      await buildInto(out, A);
      expect((await readdir(out)).sort()).toEqual([`build-${A}`, "index.js", "manifest.json"]);
      await rm(out, { recursive: true });
    }
  });

  it("refuses a folder that is somebody's, and touches nothing in it", async () => {
    for (const foreign of ["notes.txt", "index.js", "build-release", "manifest.json"]) {
      await mkdir(out);
      await writeFile(join(out, foreign), "mine");
      await expect(buildInto(out, A)).rejects.toMatchObject({ code: "output-foreign" });
      expect(await readdir(out)).toEqual([foreign]);
      await rm(out, { recursive: true });
    }
    await writeFile(out, "a file");
    await expect(buildInto(out, A)).rejects.toMatchObject({ code: "output-foreign" });
    expect(await readFile(out, "utf8")).toBe("a file");
  });

  it("lets one of two builds at a time in", async () => {
    await withOutputFolder(out, async () => {
      await expect(buildInto(out, A)).rejects.toMatchObject({ code: "output-locked" });
    });
    await buildInto(out, A);
  });

  it("takes the lock of a process that is gone", async () => {
    await mkdir(out);
    await writeFile(join(out, LOCK), "999999999 123 abc\n");
    await buildInto(out, A);
    // The number is alive, but it is another process than the one that took the lock.
    await writeFile(join(out, LOCK), `${process.pid} 1 abc\n`);
    await buildInto(out, B);
    expect(await readManifestBuild(out)).toBe(`build-${B}`);
    expect(await readdir(out)).not.toContain(LOCK);
  });

  it("lets exactly one through when many start at once over a dead lock", async () => {
    await mkdir(out);
    await writeFile(join(out, LOCK), "999999999 123 abc\n");
    const inside: string[] = [];
    let most = 0;
    const results = await Promise.allSettled(
      Array.from({ length: 8 }, (_, i) =>
        withOutputFolder(out, async () => {
          inside.push(String(i));
          most = Math.max(most, inside.length);
          await new Promise((done) => setTimeout(done, 30));
          inside.pop();
        }),
      ),
    );
    expect(most).toBe(1);
    expect(results.filter(({ status }) => status === "fulfilled").length).toBeGreaterThanOrEqual(1);
    for (const result of results) if (result.status === "rejected") expect(result.reason).toMatchObject({ code: "output-locked" });
  });
});
