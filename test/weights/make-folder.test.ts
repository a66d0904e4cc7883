/** Folders and their parents, made by many at once. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { makeFolder } from "../../src/weights/file.js";
import { temporaryFolder } from "./temporary-folder.js";

describe("a folder", () => {
  it("is made with its parents, and says which was the first", async () => {
    const root = await temporaryFolder();
    expect(await makeFolder(join(root, "a", "b", "c"))).toBe(join(root, "a"));
    expect(await makeFolder(join(root, "a", "b", "c"))).toBeUndefined();
    expect(await makeFolder(join(root, "a", "d"))).toBe(join(root, "a", "d"));
  });

  it("is there for everybody, however many make it and its parents at once", async () => {
    for (let round = 0; round < 50; round++) {
      const root = await temporaryFolder();
      const wanted = Array.from({ length: 16 }, (_, i) => join(root, "cache", "v1", `entry-${i % 8}`));
      await Promise.all(wanted.map(makeFolder));
      expect(wanted.every((path) => existsSync(path))).toBe(true);
    }
  });

  it("below /proc is refused, not tried for ever", async () => {
    await expect(makeFolder("/proc/x/y")).rejects.toThrow(/ENOENT|EACCES|EPERM/);
  });
});
