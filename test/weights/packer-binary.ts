/**
 * Builds `ern-pack` for tests, once per state of its sources, into build/. The product builds it through the
 * toolchain's cache. CXX and CXXFLAGS are honoured: `CXXFLAGS=-fsanitize=address,undefined npx vitest run test/weights`
 * is the sanitizer run.
 */

import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rename, stat } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";

const root = fileURLToPath(new URL("../../", import.meta.url));

export async function buildPacker(): Promise<string> {
  const compiler = process.env.CXX ?? "g++";
  const extra = (process.env.CXXFLAGS ?? "").split(" ").filter(Boolean);
  const warnings = ["-Wall", "-Wextra", "-Werror"];
  const inputs = ["-I", "runtime", "runtime/pack/main.cpp", "runtime/src/json.cpp"];
  const flags = ["-std=c++20", "-O2", "-pthread", ...warnings, ...extra, ...inputs];
  const hash = createHash("sha256").update([compiler, ...flags].join(" "));
  for (const folder of ["runtime/pack", "runtime/device/layout", "runtime/src"]) {
    for (const name of (await readdir(join(root, folder))).sort()) {
      if (folder !== "runtime/src" || /^(json|status|utf8)\./.test(name))
        hash.update(name).update(await readFile(join(root, folder, name)));
    }
  }
  const binary = join(root, "build", "test-tools", `ern-pack-${hash.digest("hex").slice(0, 16)}`);
  const built = await stat(binary).then(
    () => true,
    () => false,
  );
  if (built) return binary;
  await mkdir(join(root, "build", "test-tools"), { recursive: true });
  const partial = `${binary}.${process.pid}`;
  await execa(compiler, [...flags, "-o", partial], { cwd: root });
  await rename(partial, binary);
  return binary;
}
