/** Help, usage, exit codes, and the verbs that load no package. */

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createProgram } from "../../src/cli/program.js";
import { PRESET_NAMES } from "../../src/frontend/presets.js";
import { Cache } from "../../src/toolchain/cache.js";
import { inProcess } from "./in-process.js";

const path = (relative: string) => fileURLToPath(new URL(`../../${relative}`, import.meta.url));
const TINY = path("test/goldens/dense");

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ernie-cli-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function verbs(command: Command, prefix: readonly string[] = []): string[][] {
  return command.commands.flatMap((child) => [[...prefix, child.name()], ...verbs(child, [...prefix, child.name()])]);
}

describe("help", () => {
  it.each(verbs(createProgram()).map((verb) => [verb.join(" "), verb]))("of %s has an example of it", async (name, verb) => {
    const { exitCode, stdout, stderr } = await inProcess(...(verb as string[]), "--help");
    expect([exitCode, stderr]).toEqual([0, ""]);
    expect(stdout).toContain("Usage: ernie-compile");
    // A verb with verbs of its own shows one of theirs.
    expect(stdout.slice(stdout.search(/^Examples?:$/m))).toContain(`ernie-compile ${(verb as string[])[0]}`);
    expect(stdout.length, name as string).toBeGreaterThan(100);
  });

  it("of all lists every verb that the issue names", async () => {
    const { exitCode, stdout } = await inProcess("--help");
    expect(exitCode).toBe(0);
    for (const verb of ["build", "run", "chat", "logits", "eval", "bench", "inspect", "verify", "opt", "doctor", "cache"])
      expect(stdout).toMatch(new RegExp(`^ {2}${verb} `, "m"));
    expect((await inProcess("--version")).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });
});

describe("usage errors end with 2, and say where help is", () => {
  it.each([
    [["build"]],
    [["build", TINY]],
    [["build", TINY, "more", "-o", "x"]],
    [["build", TINY, "-o", "x", "--fast"]],
    [["build", TINY, "-o", "x", "--threads", "0"]],
    [["build", TINY, "-o", "x", "--threads", "two"]],
    [["build", TINY, "-o", "x", "--max-context", "1e3"]],
    [["build", TINY, "-o", "x", "--limit", "-1"]],
    [["run", "x"]],
    [["run", "x", "-p", "y", "--temperature", "hot"]],
    [["run", "x", "-p", "y", "--temperature", "NaN"]],
    [["run", "x", "-p", "y", "--top-p", "1.5"]],
    [["run", "x", "-p", "y", "--seed", "-1"]],
    [["run", "x", "-p", "y", "--max-tokens", "0"]],
    [["logits", "x", "--ids", "1"]],
    [["logits", "x", "-o", "y"]],
    [["logits", "x", "--ids", "1", "--ids-file", "z", "-o", "y"]],
    [["logits", "x", "--ids", "", "-o", "y"]],
    [["logits", "x", "--ids", "1,,2", "-o", "y"]],
    [["logits", "x", "--ids", "1,-2", "-o", "y"]],
    [["logits", "x", "--ids", "1,2.5", "-o", "y"]],
    [["logits", "x", "--ids", "1", "--greedy", "0", "-o", "y"]],
    [["logits", "x", "--ids", "1", "--chunk", "0", "-o", "y"]],
    [["eval", "x"]],
    [["bench", "x", "--format", "xml"]],
    [["bench", "x", "-r", "0"]],
    [["inspect", "x", "--memory", "0"]],
    [["verify"]],
    [["opt", "x", "--limit", "many"]],
    [["cache"]],
    [["cache", "drop"]],
    [["cache", "prune", "--max-mb", "-1"]],
    [["chat", "x", "--min-p", "2"]],
  ])("%j", async (args) => {
    const { exitCode, stdout, stderr } = await inProcess(...args);
    expect([exitCode, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(/--help shows|hint: |Usage: /);
    const json = await inProcess(...args, "--json");
    // Not every verb has --json: then that is what is wrong, and it is said in the form that was asked for.
    expect([json.exitCode, JSON.parse(json.stdout)]).toMatchObject([2, { error: { code: "usage", kind: "input" } }]);
  });
});

describe("build without a package", () => {
  it("prints the graph at a level, or all of them, and writes nothing", async () => {
    const one = await inProcess("build", TINY, "--dry-run", "--print-ir=model");
    expect(one.exitCode).toBe(0);
    expect(one.stdout).toMatch(/^func @/);
    const all = await inProcess("build", TINY, "--dry-run", "--print-ir", "--json");
    expect(Object.keys((JSON.parse(all.stdout) as { ir: object }).ir)).toEqual(["model", "fused", "kernel", "plan"]);
  });

  it.each(PRESET_NAMES.filter((name) => name !== "ernie-4.5-300b-a47b"))("compiles the preset %s from its config alone", async (name) => {
    const { exitCode, stdout } = await inProcess("build", name, "--weights", "synthetic:1", "--dry-run", "--json");
    expect([exitCode, JSON.parse(stdout)]).toMatchObject([
      0,
      { out: null, kernels: expect.any(Array), memory: { weights: expect.any(Number) } },
    ]);
  });

  it("needs --weights for a preset that is to be built", async () => {
    const { exitCode, stdout } = await inProcess("build", "ernie-4.5-0.3b", "-o", join(folder, "x"), "--json");
    expect([exitCode, JSON.parse(stdout)]).toMatchObject([2, { error: { code: "weights-missing", place: "--weights" } }]);
  });
});

describe("inspect", () => {
  it("says of a model what it needs and what fits", async () => {
    const { exitCode, stdout } = await inProcess("inspect", "ernie-4.5-21b-a3b", "--memory", "64");
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/mixture of experts, 28 layers/);
    expect(stdout).toMatch(/parameters, [\d,]+ used for a token/);
    expect(stdout).toMatch(/64 GB hold +1 sequences of [\d,]+ tokens/);
    const json = JSON.parse((await inProcess("inspect", "ernie-4.5-21b-a3b", "--memory", "1", "--json")).stdout) as object;
    expect(json).toMatchObject({ kind: "moe", layers: 28, fits: [], parts: expect.any(Array), kvBytesPerToken: expect.any(Number) });
    expect((await inProcess("inspect", "ernie-4.5-21b-a3b", "--memory", "1")).stdout).toContain("don't fit");
  });

  it("reads a folder's weights, too", async () => {
    const { exitCode, stdout } = await inProcess("inspect", TINY, "--json");
    expect([exitCode, JSON.parse(stdout)]).toMatchObject([
      0,
      { kind: "dense", layers: 3, vocabSize: 384, warnings: [{ code: "tokenizer-missing" }] },
    ]);
    expect((await inProcess("inspect", join(folder, "nowhere"), "--json")).exitCode).toBe(1);
  });
});

describe("opt", () => {
  const graph = readFileSync(path("test/passes/fuse-qkv/plain.ir"), "utf8").split("// ----")[0] as string;
  const file = () => {
    const name = join(folder, "g.ir");
    writeFileSync(name, graph);
    return name;
  };

  it("runs all passes, some, or as many rewrites as it may", async () => {
    const all = await inProcess("opt", file());
    expect([all.exitCode, all.stderr]).toEqual([0, ""]);
    expect(all.stdout).toContain("concat_rows");
    expect((await inProcess("opt", file(), "--passes", "canonicalize, fuse-qkv")).stdout).toContain("concat_rows");
    expect((await inProcess("opt", file(), "--passes", "canonicalize")).stdout).not.toContain("concat_rows");
    expect((await inProcess("opt", file(), "--passes", "fuse-qkv", "--limit", "0")).stdout).not.toContain("concat_rows");
  });

  it("says what each pass did, and writes a file for each", async () => {
    const dir = join(folder, "dumps", "deep");
    const { stderr } = await inProcess("opt", file(), "--passes", "fuse-qkv,fuse-moe", "--time", "--dump-dir", dir);
    expect(stderr).toMatch(/^fuse-qkv .* ms {2}1 rewrites$/m);
    expect(stderr).toMatch(/^fuse-moe .*nothing changed$/m);
    expect(readdirSync(dir)).toEqual(["00-input.ir", "01-fuse-qkv.ir", "02-fuse-moe.ir"]);
    expect(readFileSync(join(dir, "02-fuse-moe.ir"), "utf8")).toContain("nothing changed");
  });

  it.each([
    ["a pass that is none", (name: string) => [name, "--passes", "fuse-nothing"], 2, /^unknown-pass: /],
    ["no pass", (name: string) => [name, "--passes", ""], 2, /^unknown-pass: /],
    ["a folder that can't be made", (name: string) => [name, "--dump-dir", `${name}/x`], 1, /^file-(missing|error): /],
    ["a file that is not there", (name: string) => [`${name}.none`], 1, /^file-missing: /],
    ["a folder", () => [folder], 1, /^file-error: /],
  ])("refuses %s", async (_, args, exitCode, message) => {
    const result = await inProcess("opt", ...args(file()));
    expect([result.exitCode, result.stdout]).toEqual([exitCode, ""]);
    expect(result.stderr).toMatch(message);
  });

  it.each([
    ["text that is no graph", "{}", /^ir-syntax: .*\n {2}--> .*g\.ir:1:1/],
    ["an op that is none", graph.replace("rope ", "ropes "), /^ir-.*\n {2}--> .*g\.ir:4:/],
    [
      "another type than the op's",
      graph.replace("linear %x, %wq {dtype = f32} : f32[T, 16]", "linear %x, %wq {dtype = f32} : f32[T, 17]"),
      /g\.ir:3:/,
    ],
    ["half a graph", graph.slice(0, 700), /^ir-syntax: /],
    ["bytes", "\u0000\u0001\ufffd", /^ir-syntax: /],
  ])("refuses %s, and says where", async (_, text, message) => {
    writeFileSync(join(folder, "g.ir"), text);
    const result = await inProcess("opt", join(folder, "g.ir"));
    expect([result.exitCode, result.stdout]).toEqual([1, ""]);
    expect(result.stderr).toMatch(message);
  });
});

describe("doctor", () => {
  it("examines this machine", async () => {
    const { exitCode, stdout } = await inProcess("doctor", "--json");
    const { ok, checks } = JSON.parse(stdout) as { ok: boolean; checks: { name: string; status: string }[] };
    expect([exitCode, ok]).toEqual([0, true]);
    expect(checks.map(({ name }) => name)).toEqual(expect.arrayContaining(["compiler", "cpu", "cache", "memory"]));
    expect((await inProcess("doctor")).stdout).toMatch(/^ok {4}compiler/m);
  });

  it("fails, with the remedy, where something is missing", async () => {
    const { exitCode, stdout, stderr } = await inProcess("doctor", "--cxx", "/nowhere/g++");
    expect([exitCode, stderr]).toEqual([1, ""]);
    expect(stdout).toMatch(/^FAIL {2}compiler .*\n +-> install/m);
    expect(JSON.parse((await inProcess("doctor", "--cxx", "/nowhere/g++", "--json")).stdout)).toMatchObject({ ok: false });
  });
});

describe("cache", () => {
  let root = "";
  const before = process.env.ERNIE_COMPILE_CACHE;
  beforeAll(async () => {
    root = mkdtempSync(join(tmpdir(), "ernie-cache-"));
    process.env.ERNIE_COMPILE_CACHE = root;
    for (const name of ["a", "b", "c"])
      await new Cache(root).put(name.repeat(64), "object", `${name}.cpp`, "object.o", async (out) => writeFileSync(out, name.repeat(1000)));
  });
  afterAll(() => {
    if (before === undefined) delete process.env.ERNIE_COMPILE_CACHE;
    else process.env.ERNIE_COMPILE_CACHE = before;
    rmSync(root, { recursive: true, force: true });
  });

  it("lists what is there, and passes over what is none of its own", async () => {
    writeFileSync(join(root, "v1", "bb", "b".repeat(64), "entry.json"), '{"kind":5}');
    const { stdout } = await inProcess("cache", "ls");
    expect(stdout).toMatch(/^a{12} {2}object +1\.00 kB .* a\.cpp$/m);
    expect(stdout).toContain(`2 entries, 2.00 kB in ${root}`);
    const { entries } = JSON.parse((await inProcess("cache", "ls", "--json")).stdout) as { entries: { label: string }[] };
    expect(entries.map(({ label }) => label).sort()).toEqual(["a.cpp", "c.cpp"]);
  });

  it("is pruned by age, by size, and wholly", async () => {
    expect((await inProcess("cache", "prune")).stdout).toBe("removed 0 entries, 0 B\n");
    expect(JSON.parse((await inProcess("cache", "prune", "--max-mb", "0.0015", "--json")).stdout)).toEqual({ removed: 1, bytes: 1000 });
    expect((await inProcess("cache", "prune", "--all")).stdout).toBe("removed 1 entries, 1.00 kB\n");
    expect((await inProcess("cache", "ls")).stdout).toMatch(/^0 entries/);
  });
});
