/** The verbs that load a package, as processes: what goes to stdout and what to stderr, terminals, pipes that close, signals. */

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { execa } from "execa";
import { beforeAll, describe, expect, it } from "vitest";
import { readSafetensorsHeader } from "../../src/weights/safetensors.js";
import { expectWhole, freshPath, MINI, TINY } from "../e2e/bad-folders.js";
import { buildPackage, CLI, type CliResult, cli, cliOk } from "../e2e/support.js";

const QUESTION = "背誦李白《靜夜思》";
const ANSWER = "牀前看月光，疑是地上霜。\n舉頭望山月，低頭思故鄉。";

let folder = "";
beforeAll(async () => {
  folder = await buildPackage(MINI);
});

function json(result: CliResult): unknown {
  expect(result.stderr).toBe("");
  return JSON.parse(result.stdout);
}

/** As a program that is given `--json` reads a failure. */
async function failure(...args: string[]): Promise<{ exitCode: number; code: string; place: string; message: string }> {
  const { exitCode, stdout } = await cli([...args, "--json"]);
  const { error } = JSON.parse(stdout) as { error: { code: string; place: string; message: string } };
  expectWhole(error);
  return { exitCode, code: error.code, place: error.place, message: error.message };
}

/** On a pseudoterminal; undefined where there is no `script` to make one. */
async function onTerminal(
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<{ exitCode: number; shown: string } | undefined> {
  const command = [process.execPath, CLI, ...args].map((word) => `'${word}'`).join(" ");
  const result = await execa("script", ["-qec", `stty cols 120; ${command}`, "/dev/null"], {
    reject: false,
    input: "",
    env: { TERM: "xterm", NO_COLOR: "", ...env },
  });
  if (result.code === "ENOENT") return undefined;
  return { exitCode: result.exitCode ?? -1, shown: result.stdout };
}

describe("build", () => {
  it("is what a model alone means", async () => {
    const out = freshPath("short");
    const { stdout, stderr } = await cliOk([TINY, "-o", out]);
    expect([stdout, existsSync(join(out, "manifest.json"))]).toEqual(["", true]);
    // Elsewhere than on a terminal: a line for each phase, nothing that moves.
    for (const phase of [
      "read the model",
      "compile the graph",
      "write sources",
      "compile kernels and runtime",
      "pack weights",
      "link",
      "finish the package",
    ])
      expect(stderr).toMatch(new RegExp(`^${phase}: [\\d.]+ m?s$`, "m"));
    expect(stderr).not.toMatch(/\u001b|\r/);
    expect(json(await cliOk([TINY, "-o", out, "--json"]))).toMatchObject({
      out,
      build: expect.stringMatching(/^build-/),
      compiled: { units: expect.any(Number) },
    });
  });

  it("takes a slip in a verb for what it is", async () => {
    const { exitCode, stderr } = await cli(["verfy"]);
    expect([exitCode, stderr]).toEqual([1, expect.stringContaining("hint: did you mean ernie-compile verify?")]);
  });

  it("shows bars and colours on a terminal that wants them", async () => {
    const coloured = await onTerminal(["build", TINY, "-o", freshPath("tty")]);
    if (!coloured) return console.warn("skipped: no `script` makes a terminal here");
    expect([coloured.exitCode, coloured.shown]).toEqual([0, expect.stringContaining("\u001b[")]);
    expect(coloured.shown).toContain("finish the package");
    for (const env of [{ NO_COLOR: "1" }, { TERM: "dumb" }]) {
      const plain = await onTerminal(["doctor"], env);
      expect([plain?.exitCode, plain?.shown]).toEqual([0, expect.not.stringContaining("\u001b")]);
    }
    expect((await onTerminal(["doctor"]))?.shown).toContain("\u001b[32m");
    const failed = await onTerminal(["build", "/nowhere", "-o", freshPath("tty")]);
    expect([failed?.exitCode, failed?.shown]).toEqual([1, expect.stringContaining("input-not-found")]);
  });
});

describe("run and chat", () => {
  it("answer on stdout, and tell of it on stderr", async () => {
    const { stdout, stderr } = await cliOk(["run", folder, "-p", QUESTION, "--temperature", "0"]);
    expect(stdout).toBe(ANSWER);
    expect(stderr).toMatch(/^22 prompt tokens in .*, 25 generated, .* tokens\/s, .* in all, ended by stop$/);
  });

  it("answer programs with one object", async () => {
    const result = json(await cliOk(["run", folder, "-p", QUESTION, "--temperature", "0", "--max-tokens", "5", "--json"]));
    expect(result).toMatchObject({
      text: expect.any(String),
      finishReason: "length",
      usage: { promptTokens: 22, cachedTokens: 0, completionTokens: 5 },
    });
    expect((result as { ids: number[] }).ids.length).toBe(5);
  });

  it("continue a text as it is with --raw", async () => {
    const raw = json(
      await cliOk(["run", folder, "--raw", "-p", "In the beginning God created", "--temperature", "0", "--max-tokens", "6", "--json"]),
    );
    expect(raw).toMatchObject({ text: expect.stringContaining("the heaven"), usage: { completionTokens: 6 } });
    expect((raw as { usage: { promptTokens: number } }).usage.promptTokens).toBeLessThan(12);
    const seeded = () => cliOk(["run", folder, "--raw", "-p", "The ", "--temperature", "2", "--seed", "7", "--max-tokens", "8", "--json"]);
    const [first, second] = [json(await seeded()), json(await seeded())] as { ids: number[] }[];
    expect(first?.ids).toEqual(second?.ids);
  });

  it("refuse an empty prompt and one that is too long", async () => {
    expect(await failure("run", folder, "--raw", "-p", "")).toMatchObject({ exitCode: 1, code: "invalid-argument", place: "prompt" });
    expect(await failure("run", folder, "-p", "word ".repeat(20_000))).toMatchObject({
      exitCode: 1,
      code: "invalid-argument",
      place: "prompt",
    });
    expect(await failure("run", freshPath(), "-p", "x")).toMatchObject({ exitCode: 1, code: "package-not-found" });
  });

  it("talk until the input ends, or an empty line comes", async () => {
    const { stdout } = await cliOk(["chat", folder, "--temperature", "0", "--max-tokens", "30"], { input: `${QUESTION}\n${QUESTION}\n` });
    expect(stdout.split(ANSWER).length - 1).toBeGreaterThan(0);
    const once = await cliOk(["chat", folder, "--temperature", "0", "--max-tokens", "30"], { input: `${QUESTION}\n\n${QUESTION}\n` });
    expect(once.stdout).toBe(ANSWER);
    expect(once.stderr).toMatch(/ended by stop/);
  });
});

describe("logits", () => {
  it("writes what it was asked for, under the goldens' names", async () => {
    const ids = freshPath("ids.json");
    const out = freshPath("out.safetensors");
    writeFileSync(ids, "[3, 20, 30]");
    await cliOk(["logits", folder, "--ids-file", ids, "--greedy", "2", "--trace", "--chunk", "1", "-o", out]);
    const { tensors } = await readSafetensorsHeader(out);
    expect(tensors.get("logits")).toMatchObject({ dtype: "F32", shape: [3, 8192] });
    expect(tensors.get("greedy_ids")).toMatchObject({ dtype: "I64", shape: [2] });
    expect(tensors.get("greedy_logits")).toMatchObject({ dtype: "F32", shape: [2, 8192] });
    expect([...tensors.keys()].some((name) => name.startsWith("hidden"))).toBe(true);
    const { stdout, stderr } = await cliOk(["logits", folder, "--ids", "3,20,30", "-o", out]);
    expect([stdout, stderr, [...(await readSafetensorsHeader(out)).tensors.keys()]]).toEqual(["", `wrote logits to ${out}`, ["logits"]]);
  });

  it.each([
    [["--ids", "1,8192"], "generate-option: found 8192, expected a token id from 0 to 8191\n  --> ids[1]"],
    [["--ids", "1", "--greedy", "100000"], "generate-option: found 100001, expected at most"],
    [["--ids-file", "/nowhere"], "file-missing"],
    [["--ids-file", "package.json"], "ids-file: found something else, expected a JSON array of token ids\n  --> package.json"],
    [["--ids-file", "README.md"], "ids-file: found text that is not JSON"],
  ])("refuses %j, and leaves no file", async (args, message) => {
    const out = freshPath("none.safetensors");
    const { exitCode, stdout, stderr } = await cli(["logits", folder, ...args, "-o", out]);
    expect([exitCode, stdout, stderr, existsSync(out)]).toEqual([1, "", expect.stringContaining(message), false]);
  });

  it("refuses lists that are none, and places where nothing can be written", async () => {
    const file = freshPath("ids.json");
    for (const [text, message] of [
      ["[]", "found an empty array"],
      ['[1, "2"]', 'found "2" at [1]'],
      ["[1, 2.5]", "found 2.5 at [1]"],
      ["[[1]]", "found [1] at [0]"],
      ["[1, null]", "found null at [1]"],
    ] as const) {
      writeFileSync(file, text);
      const { exitCode, stderr } = await cli(["logits", folder, "--ids-file", file, "-o", freshPath()]);
      expect([exitCode, stderr]).toEqual([1, expect.stringContaining(message)]);
    }
    for (const out of [join(file, "x"), dirname(file), "/nowhere/x"]) {
      const { exitCode, stderr } = await cli(["logits", folder, "--ids", "1", "-o", out]);
      expect([exitCode, stderr]).toEqual([1, expect.stringMatching(/^file-(missing|error): .*\n {2}--> .*\n {2}hint: /)]);
    }
  });
});

describe("eval", () => {
  it("sums over documents", async () => {
    const data = freshPath("data.jsonl");
    writeFileSync(data, `${readFileSync(join(MINI, "held_out.jsonl"), "utf8").split("\n").slice(0, 2).join("\n")}\n\n`);
    const result = json(await cliOk(["eval", folder, "--data", data, "--json"])) as {
      nllPerToken: number;
      perplexity: number;
      documents: number;
    };
    expect([result.documents, result.perplexity]).toEqual([2, Math.exp(result.nllPerToken)]);
    expect((await cliOk(["eval", folder, "--data", data])).stdout).toMatch(
      /^nll per token [\d.]+, perplexity [\d.]+ over \d+ tokens of 2 documents/,
    );
  });

  it.each([
    ["text", "{", ":1", "not JSON"],
    ["another line", '{"ids": [1, 2]}\n\n{"id": [1]}', ":3", "found no ids"],
    ["null", "null", ":1", "found no ids"],
    ["no ids", '{"ids": []}', ":1", "found no ids"],
    ["ids that are text", '{"ids": ["1", "2"]}', ":1", "expected a token id"],
    ["ids out of range", '{"ids": [1, 8192]}', ":1", "expected a token id from 0 to 8191"],
    ["an nll that is none", '{"ids": [1, 2], "nll": "x"}', ":1", "expected a number"],
    ["more than the context holds", JSON.stringify({ ids: Array(9000).fill(5) }), ":1", "expected at most"],
    ["nothing", "", "", "none of two tokens"],
    ["a document of one token", '{"ids": [1]}', "", "none of two tokens"],
  ])("refuses %s", async (_, text, line, message) => {
    const data = freshPath("data.jsonl");
    writeFileSync(data, text);
    const error = await failure("eval", folder, "--data", data);
    expect(error).toMatchObject({ exitCode: 1, code: "eval-data", place: `${data}${line}`, message: expect.stringContaining(message) });
  });

  it("refuses files that can't be read", async () => {
    expect(await failure("eval", folder, "--data", "/nowhere")).toMatchObject({ exitCode: 1, code: "file-missing" });
    expect(await failure("eval", folder, "--data", dirname(folder))).toMatchObject({ exitCode: 1, code: "eval-data" });
  });
});

describe("bench", () => {
  const tiny = ["-p", "16", "-n", "4", "-r", "1"];

  it("gives llama-bench's rows and columns, in each format", async () => {
    const rows = JSON.parse((await cliOk(["bench", folder, ...tiny, "--format", "json"])).stdout) as {
      test: string;
      mean: number;
      bandwidthShare: number | null;
    }[];
    expect(rows.map(({ test, mean }) => [test, mean > 0])).toEqual([
      ["pp16", true],
      ["tg4", true],
    ]);
    expect([rows[0]?.bandwidthShare, (rows[1]?.bandwidthShare ?? 0) > 0]).toEqual([null, true]);
    const md = (await cliOk(["bench", folder, ...tiny])).stdout.split("\n");
    expect(md[0]).toBe("| model | size | params | backend | threads | test | t/s | of bandwidth |");
    expect(md[2]).toMatch(
      /^\| Ernie4_5ForCausalLM bf16 \| 12\.\d MB \| \d+\.\d\d M \| cpu x86-64-\S+ \| \d+ \| pp16 \| [\d.]+ ± [\d.]+ \| {2}\|$/,
    );
    const csv = (await cliOk(["bench", folder, "-p", "0", "-n", "4", "-r", "1", "-b", "2", "-d", "16", "--format", "csv"])).stdout.split(
      "\n",
    );
    expect(csv[0]).toBe('"model","size","params","backend","threads","test","t/s","of bandwidth"');
    expect(csv[1]).toContain('"tg4 @ d16 b2"');
    expect(csv.length).toBe(2);
  });

  it("refuses more than the context holds", async () => {
    const { exitCode, stdout, stderr } = await cli(["bench", folder, "-p", "100000", "-r", "1"]);
    expect([exitCode, stdout, stderr]).toEqual([1, "", expect.stringContaining("invalid-argument")]);
  });
});

describe("inspect and verify", () => {
  it("show a package, and check it", async () => {
    const { stdout, stderr } = await cliOk(["inspect", folder]);
    expect([stdout, stderr]).toEqual([expect.stringMatching(/^Ernie4_5ForCausalLM, [\d,]+ parameters, cpu x86-64/), ""]);
    for (const part of ["memory: weights", "tokens of context:", "programs:", "kernels:", "files, "]) expect(stdout).toContain(part);
    expect(json(await cliOk(["inspect", folder, "--json"]))).toMatchObject({
      build: expect.any(String),
      kernels: expect.any(Array),
      limits: expect.any(Object),
    });
    expect((await cliOk(["verify", folder])).stdout).toMatch(/^\d+ files, [\d.]+ MB: all as built$/);
    expect(json(await cliOk(["verify", folder, "--json"]))).toMatchObject({ ok: true, findings: [] });
  });
});

describe("pipes and signals", () => {
  it("ends quietly when its reader goes away", async () => {
    const shell = (script: string) =>
      execa("bash", ["-c", script], { reject: false, env: { NO_COLOR: "1", CLI, NODE: process.execPath, folder, TINY } });
    const gone = await shell('"$NODE" "$CLI" inspect "$folder" --json | head -c 1; echo "${PIPESTATUS[0]}"');
    expect([gone.stdout, gone.stderr]).toEqual(["{0", ""]);
    // Progress that nobody reads is no reason to stop.
    const out = freshPath("unseen");
    const unseen = await shell(`"$NODE" "$CLI" build "$TINY" -o ${out} 2>&1 | head -c 1 >/dev/null; echo "\${PIPESTATUS[0]}"`);
    expect([unseen.stdout, existsSync(join(out, "manifest.json"))]).toEqual(["0", true]);
  });

  /** Sends a signal at the first output, or after so many milliseconds. */
  async function signalled(args: readonly string[], signal: "SIGINT" | "SIGTERM", after?: number) {
    const child = execa(process.execPath, [CLI, ...args], { reject: false, timeout: 60_000, env: { NO_COLOR: "1" } });
    if (after === undefined) child.stdout.once("data", () => child.kill(signal));
    else setTimeout(() => child.kill(signal), after);
    return await child;
  }
  const endless = ["--raw", "-p", "The ", "--temperature", "100", "--max-tokens", "4000"];

  it("run ends with 130 on Ctrl-C, with what it has said", async () => {
    const { exitCode, stdout, stderr } = await signalled(["run", folder, ...endless], "SIGINT");
    expect([exitCode, stdout.length > 0, stderr]).toEqual([130, true, expect.stringContaining("ended by cancelled")]);
    // Before the end nothing has been said; then it is one object.
    const whole = await signalled(["run", folder, ...endless, "--json"], "SIGINT", 600);
    expect([0, 130, "SIGINT"]).toContain(whole.exitCode ?? whole.signal);
    if (whole.stdout !== "")
      expect(JSON.parse(whole.stdout)).toMatchObject({ finishReason: whole.exitCode === 0 ? expect.any(String) : "cancelled" });
  });

  it("any verb ends on a signal, whenever it comes", async () => {
    expect((await signalled(["run", folder, ...endless], "SIGTERM")).exitCode).toBe(143);
    for (const after of [150, 300, 450, 700]) {
      const { exitCode, signal } = await signalled(["eval", folder, "--data", join(MINI, "held_out.jsonl")], "SIGINT", after);
      // Before our own code runs, Node ends by the signal itself, which a shell calls 130, too.
      expect([0, 130, "SIGINT"]).toContain(exitCode ?? signal);
    }
  });
});
