/** `tune` and its verbs on the command line: what they print, and what they refuse before anything is measured. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { CLI, ROOT } from "../e2e/support.js";
import { DEVICE, journalText, MODEL, SWEEP, writeRecording } from "../tune/recording.js";
import { inProcess } from "./in-process.js";

const root = mkdtempSync(join(tmpdir(), "ernie-compile-tune-cli-test-"));
const RECORDING = join(root, "recording.jsonl");
const at = (name: string): string => join(root, name);
const REPLAY = ["--batch", "1,8", "--tokens", "64", "--replay", RECORDING] as const;

beforeAll(async () => {
  await writeRecording(RECORDING);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

async function failure(
  ...args: readonly string[]
): Promise<{ readonly exitCode: number; readonly code: string; readonly hint: string | null }> {
  const { exitCode, stdout } = await inProcess("tune", ...args, "--json");
  const { error } = JSON.parse(stdout) as { error: { code: string; hint: string | null } };
  return { exitCode, ...error };
}

describe("tune", () => {
  it("prints a line a task, the gains, and where the table is", async () => {
    const { exitCode, stdout, stderr } = await inProcess(
      "tune",
      MODEL,
      ...REPLAY,
      "--kernel",
      "linear",
      "--trials",
      "20",
      "--journal",
      at("a.jsonl"),
      "-o",
      at("a.json"),
    );
    expect([exitCode, stdout]).toEqual([0, ""]);
    const lines = stderr.trimEnd().split("\n");
    expect(lines.filter((line) => /^\[\d+\/12\] linear_\S+ x\d+ +\d+\/\d+ +[\d.]+ (us|ms) +[\d.]+ x default$/.test(line))).toHaveLength(12);
    expect(stderr).toMatch(/^12 tasks, [\d.]+ times as fast as the defaults \(geometric mean\)$/m);
    expect(lines.at(-1)).toBe(`${at("a.json")}: builds for ${DEVICE} use it from now on; measurements are in ${at("a.jsonl")}`);
  });

  it("moves one line a task on a terminal", async () => {
    const flags = [...REPLAY, "--kernel", "moe_router", "--journal", at("t.jsonl"), "-o", at("t.json")];
    const command = [process.execPath, CLI, "tune", MODEL, ...flags].map((word) => `'${word}'`).join(" ");
    const env = { TERM: "xterm" };
    const result = await execa("script", ["-qec", `stty cols 160; ${command}`, "/dev/null"], { reject: false, input: "", cwd: ROOT, env });
    if (result.code === "ENOENT") return; // no pseudoterminals to be had
    const [first = ""] = result.stdout.split("\n");
    const states = first.split("\r\u001b[K").slice(1);
    // Task, trials of the budget, best, against the default, time left; the last state stays.
    expect(states[2]).toMatch(/^\[1\/3\] moe_router_\S+ x1 {2}2\/4 {2}[\d.]+ us {2}[\d.]+ x default {2}\d+ s left$/);
    expect(states.at(-1)).toMatch(/ 4\/4 {2}[\d.]+ us {2}[\d.]+ x default/);
  });

  it("gives one JSON object of the rows, with nothing beside it", async () => {
    const { stdout, stderr } = await inProcess(
      "tune",
      MODEL,
      ...REPLAY,
      "--kernel",
      "moe_router",
      "--journal",
      at("b.jsonl"),
      "-o",
      at("b.json"),
      "--json",
    );
    expect(stderr).toBe("");
    const result = JSON.parse(stdout) as { device: string; rows: readonly { gain: number; op: string }[] };
    expect([result.device, result.rows.map(({ op }) => op)]).toEqual([DEVICE, ["moe_router", "moe_router", "moe_router"]]);
    for (const { gain } of result.rows) expect(gain).toBeGreaterThanOrEqual(1);
  });

  it("is resumed with its journal, and says what was cut", async () => {
    const args = ["tune", MODEL, ...REPLAY, "--kernel", "moe_router", "--journal", at("c.jsonl"), "-o", at("c.json")];
    await inProcess(...args);
    const whole = readFileSync(at("c.jsonl"), "utf8");
    writeFileSync(at("c.jsonl"), whole.slice(0, -10));
    const { exitCode, stderr } = await inProcess(...args, "--resume");
    expect(exitCode).toBe(0);
    expect(stderr).toContain("the last line was cut short and has been dropped");
    expect(readFileSync(at("c.json"), "utf8")).toBe(readFileSync(at("b.json"), "utf8"));
  });

  it.each<[string, number, readonly string[]]>([
    ["usage", 2, ["--trials", "0"]],
    ["usage", 2, ["--time", "0s"]],
    ["usage", 2, ["--time", "soon"]],
    ["usage", 2, ["--shard", "0/4"]],
    ["usage", 2, ["--shard", "5/4"]],
    ["usage", 2, ["--shard", "1"]],
    ["usage", 2, ["--batch", "0"]],
    ["usage", 2, ["--strategy", "luck"]],
    ["tune-no-tasks", 2, ["--kernel", "nothing*"]],
    ["usage", 2, ["--queue", "http://example.org"]],
    ["request-quantization-unsupported", 1, ["-q", "int4"]],
    ["request-value", 2, ["--arch", "vax"]],
    ["journal-unreadable", 1, ["--replay", "/dev/null"]],
  ])("refuses, with %s and exit %s, %j", async (code, exitCode, flags) => {
    const replay = flags[0] === "--replay" || flags[0] === "--arch" ? [] : ["--replay", RECORDING];
    const found = await failure(MODEL, "--journal", at("refused.jsonl"), "-o", at("refused.json"), ...replay, ...flags);
    expect(found).toMatchObject({ code, exitCode });
    expect(found.hint).toMatch(/\w+ \w+/);
  });
});

describe("tune list, show, merge", () => {
  it("lists tasks with what varies, and the number of variants", async () => {
    const { stdout } = await inProcess(
      "tune",
      "list",
      "ernie-4.5-0.3b",
      "--arch",
      "x86-64-v3",
      "--threads",
      "2",
      "--batch",
      "1",
      "--tokens",
      "512",
    );
    expect(stdout).toMatch(/^head_argmax_bf16_n103424_k1024 x1: 4 variants \(ahead 0\|1024\|2048\|4096\)$/m);
    expect(stdout).toMatch(/^11 tasks, \d+ variants, x86-64-v3$/m);
    const json = JSON.parse(
      (await inProcess("tune", "list", "ernie-4.5-21b-a3b", "--batch", "1", "--kernel", "moe_*", "--json")).stdout,
    ) as {
      tasks: readonly { kernel: string; tunables: object; variants: number }[];
      variants: number;
    };
    expect(json.tasks.map(({ kernel }) => kernel)).toEqual(["moe_ffn", "moe_router"]);
    expect(json.variants).toBe(json.tasks.reduce((sum, { variants }) => sum + variants, 0));
  });

  it("shows a table, and refuses what is none", async () => {
    const { stdout } = await inProcess("tune", "show", at("a.json"));
    expect(stdout).toMatch(new RegExp(`^${DEVICE}\nlinear .* x with `));
    expect(await failure("show", "/nowhere.json")).toMatchObject({ code: "tuning-unreadable", exitCode: 1 });
  });

  it("merges journals of shards to the table of one process, in any order, and no others", async () => {
    for (const i of [1, 2, 3])
      await inProcess(
        "tune",
        MODEL,
        ...REPLAY,
        "--kernel",
        "linear",
        "--trials",
        "20",
        "--shard",
        `${i}/3`,
        "--journal",
        at(`s${i}.jsonl`),
        "-o",
        at(`s${i}.json`),
      );
    const { exitCode } = await inProcess("tune", "merge", at("s3.jsonl"), at("s1.jsonl"), at("s2.jsonl"), "-o", at("s.json"));
    expect(exitCode).toBe(0);
    expect(readFileSync(at("s.json"), "utf8")).toBe(readFileSync(at("a.json"), "utf8"));
    writeFileSync(at("other.jsonl"), journalText([{ ...SWEEP, device: "x86-64-v3-other-2t" }]));
    expect(await failure("merge", at("s1.jsonl"), at("other.jsonl"), "-o", at("x.json"))).toMatchObject({ code: "journal-device" });
    writeFileSync(at("newer.jsonl"), journalText([{ ...SWEEP, build: "fedcba9876543210" }]));
    expect(await failure("merge", at("s1.jsonl"), at("newer.jsonl"), "-o", at("x.json"))).toMatchObject({ code: "journal-version" });
    writeFileSync(at("empty.jsonl"), "");
    expect(await failure("merge", at("empty.jsonl"))).toMatchObject({ code: "journal-unreadable" });
  });
});
