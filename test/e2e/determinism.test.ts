/**
 * The same resolved request gives the same package, byte for byte: whatever folder the model, the package, the cache and the compiler itself lie in. So nothing
 * that is generated or compiled knows a path, the time or the machine.
 */

import { cp, mkdir, symlink } from "node:fs/promises";
import { homedir, hostname } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { beforeAll, describe, expect, it } from "vitest";
import { packageFiles } from "./packages.js";
import { buildPackage, GOLDENS, ROOT, WORK } from "./support.js";

/** All that the compiler needs besides its dependencies; measured tables decide what is generated. */
const COMPILER = ["dist", "runtime", "templates", "schema", "tuning", "package.json"];

describe("two builds", () => {
  let first: ReadonlyMap<string, string>;
  let second: ReadonlyMap<string, string>;

  beforeAll(async () => {
    const elsewhere = join(WORK, "another place", "deeper");
    await mkdir(elsewhere, { recursive: true });
    for (const name of COMPILER) await cp(join(ROOT, name), join(elsewhere, "compiler", name), { recursive: true });
    await symlink(join(ROOT, "node_modules"), join(elsewhere, "compiler", "node_modules"));
    await cp(join(GOLDENS, "moe"), join(elsewhere, "model"), { recursive: true });

    first = await packageFiles(await buildPackage(join(GOLDENS, "moe"), "--arch", "x86-64-v3"));
    const args = ["build", "model", "-o", "package", "--arch", "x86-64-v3"];
    await execa(process.execPath, [join(elsewhere, "compiler", "dist", "cli", "main.js"), ...args], {
      cwd: elsewhere,
      env: { ERNIE_COMPILE_CACHE: join(elsewhere, "cache"), TZ: "Asia/Shanghai", LANG: "C" },
      timeout: 400_000,
    });
    second = await packageFiles(join(elsewhere, "package"));
  });

  it("have the same files", () => {
    expect([...second.keys()]).toEqual([...first.keys()]);
    for (const path of ["build/src/plan.cpp", "build/lib/libern_model.so", "build/lib/ern_node.node", "build/CMakeLists.txt", "index.d.ts"])
      expect(first.has(path), path).toBe(true);
    expect([...first.keys()].filter((path) => path.startsWith("build/kernels/")).length).toBeGreaterThan(5);
  });

  it("with the same bytes", () => {
    const different = [...first].filter(([path, text]) => second.get(path) !== text).map(([path]) => path);
    expect(different).toEqual([]);
  });

  it("and nothing of this machine in them", () => {
    const traces = [ROOT.replace(/\/$/, ""), WORK, homedir(), hostname(), new Date().toISOString().slice(0, 10)].filter(
      (text) => text.length > 3,
    );
    const found = [...first, ...second].flatMap(([path, text]) =>
      traces.filter((trace) => text.includes(trace)).map((trace) => `${path}: ${trace}`),
    );
    expect(found).toEqual([]);
  });
});
