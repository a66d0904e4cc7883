/**
 * A package whose files were changed is refused before anything of it runs, and its process goes on; one that was moved, loaded twice or built again works.
 * Changed packages are loaded in a process of their own, one after the other: a crash would show as its end.
 */

import { mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { execa } from "execa";
import { beforeAll, describe, expect, it } from "vitest";
import { verifyPackage } from "../../src/cli/verify.js";
import type { Engine, LoadOptions, Message, PromptSegment } from "../../src/host/api.js";
import { buildFolder, copyPackage, expectWhole, flipByte, freshPath, MINI, refusalOf, replaceFile, TINY } from "./bad-folders.js";
import { buildPackage, cli, cliOk } from "./support.js";

let good = "";
beforeAll(async () => {
  good = await buildPackage(MINI);
});

/** Code that must not run: the process would end with 9. */
const EVIL = "process.exit(9);\n";

type Edit = (build: string, root: string) => void;
const file =
  (path: string, change: (bytes: Buffer) => string | Uint8Array): Edit =>
  (build) =>
    replaceFile(join(build, path), change(readFileSync(join(build, path))));
const flip =
  (path: string, at: number): Edit =>
  (build) =>
    flipByte(join(build, path), at);
const without =
  (path: string): Edit =>
  (build) =>
    rmSync(join(build, path));
const manifest =
  (change: (manifest: { [key: string]: unknown; files: { [path: string]: unknown } }) => unknown): Edit =>
  (_, root) => {
    const path = join(root, "manifest.json");
    const value = JSON.parse(readFileSync(path, "utf8")) as Parameters<typeof change>[0];
    replaceFile(path, JSON.stringify(change(value) ?? value));
  };
const manifestText =
  (text: string): Edit =>
  (_, root) =>
    replaceFile(join(root, "manifest.json"), text);
const evilBuild =
  (name: string): Edit =>
  (_, root) => {
    for (const folder of [join(root, "..", "evil"), join(root, "evil")]) {
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, "host.cjs"), EVIL);
    }
    manifest((value) => void (value.build = name))("", root);
  };

/** Refused by load(): with a place that names the file, and by `verify`, which finds the file (or refuses the manifest). */
const CHANGED: [what: string, edit: Edit, place: string, found?: string][] = [
  ["a library cut short", file("lib/libern_model.so", (bytes) => bytes.subarray(0, 100_000)), "libern_model.so"],
  ["a library with another byte", flip("lib/libern_model.so", 90_000), "libern_model.so"],
  ["an empty library", file("lib/libern_model.so", () => ""), "libern_model.so"],
  ["no library", without("lib/libern_model.so"), "libern_model.so"],
  ["an addon cut short", file("lib/ern_node.node", (bytes) => bytes.subarray(0, 10_000)), "ern_node.node"],
  ["an addon of text", file("lib/ern_node.node", () => "not a library"), "ern_node.node"],
  ["no addon", without("lib/ern_node.node"), "ern_node.node"],
  ["another host", file("host.cjs", (bytes) => EVIL + bytes.toString()), "host.cjs"],
  ["a host cut short", file("host.cjs", (bytes) => bytes.subarray(0, 1000)), "host.cjs"],
  ["no host", without("host.cjs"), "host.cjs"],
  ["another template program", file("jinja-worker.cjs", () => EVIL), "jinja-worker.cjs"],
  ["another plan source", file("src/plan.cpp", (bytes) => `${bytes.toString()}// more\n`), "src/plan.cpp"],
  ["another header", flip("include/ern.h", 50), "include/ern.h"],
  ["other text settings", file("text.json", () => '{"format":1,"vocab_size":8192}'), "text.json"],
  ["no text settings", without("text.json"), "text.json"],
  ["another chat form", file("chat.json", () => '{"format":1,"form":"jinja","source":"{{ x }}"}'), "chat.json"],
  ["no chat form", without("chat.json"), "chat.json"],
  ["a tokenizer cut short", file("tokenizer.model", (bytes) => bytes.subarray(0, 5000)), "tokenizer.model"],
  ["a tokenizer with another byte", flip("tokenizer.model", 5000), "tokenizer.model"],
  ["weights cut short", file("weights.safetensors", (bytes) => bytes.subarray(0, 1_000_000)), "weights.safetensors"],
  ["weights that grew", file("weights.safetensors", (bytes) => Buffer.concat([bytes, Buffer.alloc(2)])), "weights.safetensors"],
  ["another header of the weights", flip("weights.safetensors", 20), "weights.safetensors"],
  ["no weights", without("weights.safetensors"), "weights.safetensors"],
  [
    "a link to another file",
    (build) => {
      rmSync(join(build, "text.json"));
      symlinkSync("chat.json", join(build, "text.json"));
    },
    "text.json",
  ],
  ["no build folder", (build) => rmSync(build, { recursive: true }), "host.cjs", ""],
  ["a manifest that is no JSON", manifestText("{"), "manifest.json", ""],
  ["an empty manifest", manifestText(""), "manifest.json", ""],
  ["a manifest of null", manifestText("null"), "manifest.json", ""],
  ["a manifest of a list", manifestText("[]"), "manifest.json", ""],
  ["a manifest of nothing", manifestText("{}"), "manifest.json", ""],
  ["no manifest", (_, root) => rmSync(join(root, "manifest.json")), "manifest.json", ""],
  ["a manifest of another format", manifest((value) => void (value.format = 2)), "manifest.json", ""],
  ["a manifest of another build", manifest((value) => void (value.build = "build-0123456789abcdef")), "host.cjs", ""],
  ["a manifest that leads out of the package", evilBuild("../evil"), "manifest.json", ""],
  ["a manifest that leads elsewhere in the package", evilBuild("evil"), "manifest.json", ""],
  ["a manifest with an absolute path", evilBuild("/evil"), "manifest.json", ""],
  ["a manifest with another build id", manifest((value) => void (value.build_id = "0".repeat(32))), "build", "-"],
  ["a manifest without files", manifest((value) => ({ ...value, files: undefined })), "", ""],
  ["a manifest with no files", manifest((value) => ({ ...value, files: {} })), "", "-"],
  ["a manifest with a list of files", manifest((value) => ({ ...value, files: [] })), "", ""],
  [
    "a manifest that lists a path outside",
    manifest((value) => void (value.files["../../x"] = { sha256: "0".repeat(64), bytes: 1 })),
    "",
    "",
  ],
  [
    "a manifest that lists a file that is not there",
    manifest((value) => void (value.files["src/x.cpp"] = { sha256: "0".repeat(64), bytes: 1 })),
    "src/x.cpp",
  ],
  ["a manifest with sums that are none", manifest((value) => void (value.files["host.cjs"] = { sha256: 5, bytes: "x" })), "host.cjs", ""],
];

interface Outcome {
  readonly error: { readonly code: string; readonly place: string; readonly message: string } | null;
}

/** Loads packages in one process of its own, and then the good one, which must answer. */
async function loadEach(roots: readonly string[], options: LoadOptions = {}): Promise<Outcome[]> {
  const script = `
    import { pathToFileURL } from "node:url";
    import { join } from "node:path";
    const { roots, good, options } = JSON.parse(process.argv[1]);
    for (const root of [...roots, good]) {
      let error = null;
      try {
        const { load } = await import(pathToFileURL(join(root, "index.js")).href);
        const engine = await load(options);
        for await (const piece of engine.generate("The ", { maxTokens: 2, temperature: 0 })) piece.ids;
        await engine.dispose();
      } catch (thrown) {
        error = thrown.toJSON ? thrown.toJSON() : { code: "not-a-diagnostic", message: String(thrown.stack), place: "" };
      }
      console.log(JSON.stringify({ error }));
    }`;
  const result = await execa(process.execPath, ["--input-type=module", "-e", script, JSON.stringify({ roots, good, options })], {
    reject: false,
    timeout: 120_000,
  });
  expect([result.exitCode, result.signal ?? null, result.stderr]).toEqual([0, null, ""]);
  const outcomes = result.stdout.split("\n").map((line) => JSON.parse(line) as Outcome);
  expect(outcomes.pop()).toEqual({ error: null });
  return outcomes;
}

describe("a package that was changed", () => {
  const roots: string[] = [];
  let outcomes: Outcome[] = [];
  beforeAll(async () => {
    for (const [, edit] of CHANGED) {
      const root = copyPackage(good, join(freshPath("changed"), "package"));
      edit(buildFolder(root), root);
      roots.push(root);
    }
    outcomes = await loadEach(roots);
  });

  it.each(CHANGED.map(([what, , place, found], i) => ({ what, place, found, i })))("by $what", async ({ place, found = place, i }) => {
    const { error } = outcomes[i] as Outcome;
    expectWhole(error);
    expect(error?.code).toBe("package-changed");
    expect(`${error?.place} ${error?.message}`).toContain(place);
    const verified = await verifyPackage(roots[i] as string).catch((thrown: unknown) => thrown);
    if (found === "") expect(verified).toMatchObject({ code: expect.stringMatching(/^package-(changed|not-found)$/) });
    else if (found !== "-") expect(verified).toMatchObject({ findings: [{ file: expect.stringContaining(found) }] });
  });

  it("in one byte of the weights' data is found when it is looked for", async () => {
    const root = copyPackage(good);
    flipByte(join(buildFolder(root), "weights.safetensors"), 5_000_000);
    expect(await loadEach([root])).toEqual([{ error: null }]);
    const [outcome] = await loadEach([root], { verify: true });
    expect(outcome?.error).toMatchObject({ code: "package-changed", message: expect.stringContaining("weights.safetensors") });
    expect((await verifyPackage(root)).findings).toMatchObject([{ file: "weights.safetensors" }]);
  });

  it("in what stands at its root, or by files that were added, is found by verify", async () => {
    for (const [name, change] of [
      ["index.cjs", (root: string) => replaceFile(join(root, "index.cjs"), EVIL)],
      ["index.js", (root: string) => replaceFile(join(root, "index.js"), "x(")],
      ["package.json", (root: string) => rmSync(join(root, "package.json"))],
      ["src/more.cpp", (root: string) => writeFileSync(join(buildFolder(root), "src/more.cpp"), "")],
    ] as const) {
      const root = copyPackage(good);
      change(root);
      expect((await verifyPackage(root)).findings).toMatchObject([{ file: name }]);
    }
  });

  it("into links to the same bytes works, and verify says so", async () => {
    const root = copyPackage(good);
    const build = buildFolder(root);
    for (const name of ["weights.safetensors", "lib/libern_model.so"]) {
      const elsewhere = freshPath("elsewhere");
      renameSync(join(build, name), elsewhere);
      symlinkSync(elsewhere, join(build, name));
    }
    expect(await loadEach([root])).toEqual([{ error: null }]);
    expect((await verifyPackage(root)).findings.map(({ file: name }) => name).sort()).toEqual([
      "lib/libern_model.so",
      "weights.safetensors",
    ]);
  });

  it("is told apart from a folder that never was one, by every verb", async () => {
    const changed = roots[CHANGED.findIndex(([what]) => what === "a library cut short")] as string;
    const broken = copyPackage(good);
    replaceFile(join(broken, "index.js"), "x(");
    const out = freshPath("logits");
    for (const [args, code] of [
      [["run", changed, "-p", "x", "--json"], "package-changed"],
      [["run", broken, "-p", "x", "--json"], "package-changed"],
      [["eval", dirname(changed), "--data", "x", "--json"], "package-not-found"],
      [["verify", dirname(changed), "--json"], "package-not-found"],
      [["inspect", roots[CHANGED.findIndex(([what]) => what === "a manifest of nothing")] as string, "--json"], "package-changed"],
    ] as const) {
      const { exitCode, stdout } = await cli(args);
      const { error } = JSON.parse(stdout) as { error: unknown };
      expectWhole(error);
      expect([args[0], exitCode, error]).toEqual([args[0], 1, expect.objectContaining({ code })]);
    }
    const verified = await cli(["verify", changed, "--json"]);
    expect([verified.exitCode, JSON.parse(verified.stdout)]).toMatchObject([1, { ok: false, findings: [{ file: "lib/libern_model.so" }] }]);
    const { exitCode, stdout, stderr } = await cli(["logits", changed, "--ids", "1", "-o", out]);
    expect([exitCode, stdout, stderr.split("\n").length]).toEqual([1, "", 3]);
  });
});

async function open(root: string, options?: LoadOptions): Promise<Engine> {
  const { load } = (await import(pathToFileURL(join(root, "index.js")).href)) as { load: (options?: LoadOptions) => Promise<Engine> };
  return load(options);
}

async function answer(engine: Engine, prompt: string | number[] = [3, 20, 30, 40]): Promise<number[]> {
  const ids: number[] = [];
  for await (const piece of engine.generate(prompt, { temperature: 0, maxTokens: 8, minTokens: 8 })) ids.push(...piece.ids);
  return ids;
}

describe("a package that is whole", () => {
  let expected: number[] = [];
  beforeAll(async () => {
    const engine = await open(good);
    expected = await answer(engine);
    await engine.dispose();
    expect(expected.length).toBe(8);
  });

  it("works from another folder, whatever that is called, and through a link to it", async () => {
    const moved = copyPackage(good, freshPath("a b#c?d%20'\"é語"));
    const link = freshPath("link");
    symlinkSync(moved, link);
    expect(await loadEach([moved, link], { verify: true })).toEqual([{ error: null }, { error: null }]);
    expect((await cliOk(["run", moved, "-p", "x", "--max-tokens", "2", "--json"])).stdout).toContain("finishReason");
  });

  it("works twice in one process, and beside another", async () => {
    const other = await buildPackage(TINY);
    const engines = await Promise.all([open(good), open(good), open(other)]);
    const [first, second, third] = engines;
    const [a, b, c] = await Promise.all(engines.map((engine) => answer(engine)));
    expect([a, b]).toEqual([expected, expected]);
    await first.dispose();
    expect(await answer(second)).toEqual(expected);
    expect(await answer(third)).toEqual(c);
    expect([second.info.model.vocabSize, third.info.model.vocabSize]).toEqual([8192, 384]);
    await Promise.all([second.dispose(), third.dispose()]);
  });

  it("may be built again while it runs: who loads then gets the new one, who runs keeps the old one", async () => {
    const root = freshPath("rebuilt");
    const build = (...flags: string[]) => cliOk(["build", MINI, "-o", root, ...flags]);
    await build();
    const engines: Engine[] = [await open(root)];
    await build("--max-context", "256");
    engines.push(await open(root));
    await build();
    engines.push(await open(root));
    expect(engines.map((engine) => engine.info.maxContext === 256)).toEqual([false, true, false]);
    expect(engines[0]?.info.buildId).toBe(engines[2]?.info.buildId);
    for (const engine of engines) {
      expect(await answer(engine)).toEqual(expected);
      await engine.dispose();
    }
    expect((await verifyPackage(root)).findings).toEqual([]);
  });
});

describe("a caller that passes what there is not", () => {
  const bad = (value: unknown) => value as never;

  it.each([
    [null, "options"],
    [5, "options"],
    [{ thread: 1 }, "thread"],
    [{ threads: -1 }, "threads"],
    [{ threads: "2" }, "threads"],
    [{ threads: Number.NaN }, "threads"],
    [{ kvTokens: 1e12 }, "kvTokens"],
    [{ prefillChunk: 1.5 }, "prefillChunk"],
    [{ verify: "yes" }, "verify"],
    [{ weights: "disk" }, "weights"],
    [{ weights: "toString" }, "weights"],
  ])("to load(): %j", async (options, place) => {
    expect(await refusalOf(() => open(good, bad(options)))).toMatchObject({ code: "generate-option", place });
  });

  it("asks for more memory than there is", async () => {
    expect((await refusalOf(() => open(good, { kvTokens: 2 ** 31 - 64 }))).code).toBe("out-of-memory");
  });

  it("to the engine's methods", async () => {
    const engine = await open(good);
    const circular: { self?: unknown } = {};
    circular.self = circular;
    const run = async (pieces: AsyncIterable<unknown>) => {
      for await (const _ of pieces);
    };
    const generate = (prompt: unknown, options?: unknown) => () => run(engine.generate(bad(prompt), bad(options)));
    const chat = (messages: unknown, options?: unknown) => () => run(engine.chat(bad(messages), bad(options)));
    const calls: [call: () => Promise<unknown>, place: string][] = [
      [generate(undefined), "prompt"],
      [generate({}), "prompt"],
      [generate(""), "prompt"],
      [generate([]), "prompt"],
      [generate([{ kind: "system", text: "x" }]), "prompt[0]"],
      [generate([1, "2"]), "prompt[1]"],
      [generate([1, 8192]), "prompt[1]"],
      [generate(new Int32Array([-1])), "prompt[0]"],
      [generate("x".repeat(500_000)), "prompt"],
      [generate("x", null), "options"],
      [generate("x", { stop: 5 }), "stop"],
      [generate("x", { stop: ["a", 5] }), "stop"],
      [generate("x", { stop: "a\0b" }), "stop"],
      [generate("x", { stopIds: "1" }), "stopIds"],
      [generate("x", { signal: 5 }), "signal"],
      [generate("x", { logitBias: 5 }), "logitBias"],
      [generate("x", { logitBias: { 1: "x" } }), "logitBias[1]"],
      [generate("x", { logitBias: { 8192: 1 } }), 'logitBias["8192"]'],
      [generate("x", { temperature: circular }), "temperature"],
      [generate("x", { seed: 1n }), "seed"],
      [chat(undefined), "messages"],
      [chat([]), "messages"],
      [chat([{ role: "robot", content: "x" }]), "messages[0].role"],
      [chat([{ role: "user", content: circular }]), "messages[0].content"],
      [chat([{ role: "user", content: "x", toolCalls: 5 }]), "messages[0].toolCalls"],
      [chat([{ role: "user", content: "x", toolCalls: [{ name: "f", arguments: circular }] }]), "messages[0].toolCalls[0]"],
      [chat([{ role: "user", content: "x" }], { addGenerationPrompt: 1 }), "addGenerationPrompt"],
      [chat([{ role: "user", content: "x" }], { templateVariables: { tools: [] } }), "templateVariables"],
      [() => engine.profile(bad(null)), "options"],
      [() => engine.profile({ batch: 0 }), "batch"],
      [() => engine.profile({ rows: 1.5 }), "rows"],
      [() => engine.logits(bad(null)), "ids"],
      [() => engine.logits([]), "ids"],
      [() => engine.logits([8192]), "ids[0]"],
      [() => engine.logits([1], bad(null)), "options"],
      [() => engine.logits([1], bad({ greedy: -1 })), "greedy"],
      [() => engine.logits([1], { greedy: 2 ** 31 - 1 }), "ids"],
      [() => engine.logits([1], bad({ chunks: 1 })), "chunks"],
      [async () => engine.tokenize(bad(5)), "text"],
      [async () => engine.tokenize(bad([{ kind: "user" }])), "text[0]"],
      [async () => engine.detokenize(bad("1")), "ids"],
      [async () => engine.detokenize([8192]), "ids[0]"],
      [async () => engine.detokenize([1], bad(null)), "options"],
    ];
    for (const [call, place] of calls) {
      const error = await refusalOf(call);
      expect([error.place, error.code]).toEqual([place, expect.stringMatching(/^(generate-option|chat-message|invalid-argument)$/)]);
    }
    // Odd, but fine: text is text.
    expect(engine.detokenize(engine.tokenize("a\ud800b\0c"))).toBe("a\ufffdb\0c");
    expect(await answer(engine)).toHaveLength(8);
    await engine.dispose();
  });

  it("text to a package without a tokenizer", async () => {
    const engine = await open(await buildPackage(TINY));
    expect(await answer(engine)).toHaveLength(8);
    const text: readonly PromptSegment[] = [{ kind: "user", text: "x" }];
    const messages: readonly Message[] = [{ role: "user", content: "x" }];
    for (const call of [() => engine.generate("x"), () => engine.generate(text), () => engine.chat(messages)]) {
      const error = await refusalOf(async () => {
        for await (const _ of call());
      });
      expect([error.code, error.kind]).toEqual(["unsupported", "unsupported"]);
    }
    expect(await refusalOf(async () => engine.tokenize("x"))).toMatchObject({ code: "unsupported" });
    await engine.dispose();
  });
});
