/** Builds the stand-in driver. */

import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";

const ROOT = join(import.meta.dirname, "../..");

/** Puts a libcuda.so.1 into a folder, which processes then name in LD_LIBRARY_PATH. */
export async function buildDriver(folder: string): Promise<void> {
  mkdirSync(folder, { recursive: true });
  const own = join(ROOT, "test/fake-cuda");
  const sources = readdirSync(own).filter((name) => name.endsWith(".cpp"));
  const includes = ["runtime", "runtime/src", "test/fake-cuda"].map((path) => `-I${join(ROOT, path)}`);
  const flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"];
  await execa("g++", [...flags, ...includes, ...sources.map((name) => join(own, name)), "-o", join(folder, "libcuda.so.1")]);
}
