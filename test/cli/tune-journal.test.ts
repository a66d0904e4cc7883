/** Which journal `tune report` and `tune export` read when none is named, and what `tune show` says of one. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { journalPath } from "../../src/cli/tune-journal.js";
import { resolveArch } from "../../src/toolchain/arch.js";
import { describeMachine, deviceClass } from "../../src/tune/device.js";
import { sampleSweep, writeJournal } from "../tune/sample-sweep.js";
import { inProcess } from "./in-process.js";

const before = process.cwd();
let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ernie-journal-"));
  process.chdir(folder);
});
afterEach(() => {
  process.chdir(before);
  rmSync(folder, { recursive: true, force: true });
});

const write = (name: string) => writeJournal(name, sampleSweep(3));
const arch = resolveArch("native");
const own = `tune-${deviceClass(arch, describeMachine(arch).threads)}.jsonl`;

it("the one named, as an argument or a flag", () => {
  write("tune-other.jsonl");
  expect(journalPath("a.jsonl", {})).toBe("a.jsonl");
  expect(journalPath(undefined, { journal: "b.jsonl" })).toBe("b.jsonl");
});

it("else the only one here, and this machine's before others", () => {
  write("tune-other.jsonl");
  expect(journalPath(undefined, {})).toBe("tune-other.jsonl");
  write(own);
  expect(journalPath(undefined, {})).toBe(own);
});

it("is refused where there is none or more than one to choose from", async () => {
  expect((await inProcess("tune", "report")).stderr).toContain(`tune-no-journal: found no ${own} in this folder`);
  write("tune-b.jsonl");
  write("tune-a.jsonl");
  const { exitCode, stderr } = await inProcess("tune", "report", "-o", "report.html");
  expect(exitCode).toBe(2);
  expect(stderr).toContain("found tune-a.jsonl, tune-b.jsonl, expected one");
});

it("report and export need no more than that", async () => {
  write(own);
  expect((await inProcess("tune", "report", "-o", "report.html")).stderr).toBe("wrote report.html: 4 tasks, 12 trials\n");
  expect((await inProcess("tune", "export", "--format", "t4", "-o", "t4")).stderr).toBe("wrote 4 files to t4\n");
  expect((await inProcess("tune", "export", "--journal", own, "--task", "n=103424", "-o", "one.json")).stderr).toBe("wrote one.json\n");
});

it("show prints a journal task by task, with nothing that a terminal would obey", async () => {
  const records = sampleSweep(30).map((record) =>
    record.kind === "task" ? { ...record, problem: { ...record.problem, x: "\u001b[31mred\u202e" } } : record,
  );
  writeJournal("sweep.jsonl", records);
  const { exitCode, stdout, stderr } = await inProcess("tune", "show", "sweep.jsonl");
  expect([exitCode, stderr]).toEqual([0, ""]);
  const lines = stdout.trimEnd().split("\n");
  expect(lines[0]).toMatch(/^cpu x86-64-v4-bf16: 4 tasks, 120 trials \(\d+ failed\), /);
  expect(lines[1]).toBe("linear n=1024 k=1024 x=\\u001b[31mred\\u202e, 1 row");
  expect(lines[2]).toMatch(/^ {2}30 of 1260 {2}\d+\.?\d* µs -> \d+\.?\d* µs {2}1\.\d{3}× \(.*\) {2}\d+ % of bandwidth {2}\w/);
  expect(stdout).toMatch(/^ {2}failed: (\d+ (wrong|compile|crash|hang)(, )?)+$/m);
  expect(lines.at(-1)).toMatch(/^1\.\d{3} times as fast as the defaults/);
  expect(stdout).not.toMatch(/[\u001b\u202e\u2028]/);
  const json = await inProcess("tune", "show", "sweep.jsonl", "--json");
  expect(JSON.parse(json.stdout).tasks).toHaveLength(4);
});
