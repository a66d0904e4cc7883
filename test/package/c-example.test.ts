/** examples/c against a built package: through the generated CMakeLists.txt where CMake is installed, and linked to the package's own library. */

import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa, execaSync } from "execa";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildPackage, MODELS, ROOT } from "../e2e/support.js";

const MODEL = join(MODELS, "ernie-mini-moe");
const QUESTION = "背誦李白《靜夜思》";
const hasCmake = execaSync("cmake", ["--version"], { reject: false }).exitCode === 0;

let work: string;
let ernie: string;
let build: string;
let expected: string;

beforeAll(async () => {
  work = await mkdtemp(join(tmpdir(), "ernie-compile-c-"));
  ernie = await buildPackage(MODEL);
  build = join(ernie, (JSON.parse(await readFile(join(ernie, "manifest.json"), "utf8")) as { build: string }).build);
  const { greedy } = JSON.parse(await readFile(join(MODEL, "expected.json"), "utf8")) as { greedy: { user?: string; text: string }[] };
  expected = greedy.find(({ user }) => user === QUESTION)?.text ?? "";
});

afterAll(() => rm(work, { recursive: true, force: true }));

async function ask(program: string, ...args: string[]) {
  return await execa(program, args, { reject: false, timeout: 60_000 });
}

describe("examples/c", () => {
  it("prints the answer, linked to the package's library", async () => {
    const program = join(work, "ask");
    const library = join(build, "lib");
    const flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", `-I${join(build, "include")}`, "-pthread", `-Wl,-rpath,${library}`];
    await execa("g++", [...flags.filter((flag) => flag !== "-std=c11"), "-x", "c++", "-fsyntax-only", join(build, "include/ern.h")], {
      timeout: 60_000,
    });
    await execa("gcc", [...flags, join(ROOT, "examples/c/main.c"), join(library, "libern_model.so"), "-o", program], { timeout: 60_000 });
    expect(await ask(program, ernie, QUESTION)).toMatchObject({ exitCode: 0, stdout: expected });
  });

  it("says what is wrong with a folder, a question or its arguments", async () => {
    const program = join(work, "ask");
    const missing = await ask(program, join(work, "nothing"), QUESTION);
    expect(missing.exitCode).toBe(1);
    expect(missing.stderr).toContain("manifest.json");
    expect((await ask(program)).exitCode).toBe(2);
  });

  it.skipIf(!hasCmake)("builds the library from the package's sources through CMake", async () => {
    const out = join(work, "cmake");
    await execa("cmake", ["-S", join(ROOT, "examples/c"), "-B", out, `-DERNIE_PACKAGE=${ernie}`], { timeout: 60_000 });
    await execa("cmake", ["--build", out, "-j2"], { timeout: 230_000 });
    expect(await ask(join(out, "ask"), ernie, QUESTION)).toMatchObject({ exitCode: 0, stdout: expected });
    expect(await symbols(join(out, "ern_model", "libern_model.so"))).toEqual(await symbols(join(build, "lib", "libern_model.so")));
  });
});

/** What a library shows. */
async function symbols(library: string): Promise<readonly string[]> {
  const { stdout } = await execa("nm", ["-D", "--defined-only", "--format=just-symbols", library]);
  return stdout.split("\n").sort();
}
