/** Tables: their text, where builds find them, what is refused, and that a tuned package differs by its kernels' variants and nothing else. */

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readTuning, type TuningRow } from "../../src/kernels/tuning.js";
import { bestArch, readCpuFlags } from "../../src/toolchain/arch.js";
import { deviceClass } from "../../src/tune/device.js";
import type { FinalRecord, TaskRecord } from "../../src/tune/records.js";
import { mergeRows, printTable, rowsOfRecords } from "../../src/tune/tables.js";
import { cli, cliOk, MODELS } from "../e2e/support.js";

const root = mkdtempSync(join(tmpdir(), "ernie-compile-tables-test-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const MODEL = join(MODELS, "ernie-mini-dense");
const DEVICE = deviceClass(bestArch(readCpuFlags()) ?? "x86-64-v3", availableParallelism());

const STANDARD = { tile_rows: 0, k_block: 256, few_block: 128, row_block: 192, ahead: 0, next: 1 };
const row = (rows: number, ahead: number, k = 256): TuningRow => ({
  op: "linear",
  problem: { n: 256, k, x: "bf16", out: "f32", bias: false, weight_dtype: "bf16" },
  layouts: { weight: "panel64" },
  rows,
  winner: { kernel: "linear", params: { ...STANDARD, ahead }, seconds: 1e-5, interval: [0.9e-5, 1.1e-5] },
  default: { kernel: "linear", params: STANDARD, seconds: 2e-5 },
});

describe("a table", () => {
  it("has a line a row, sorted by what it is about, and is read back", () => {
    const rows = [row(512, 0), row(1, 1024), row(8, 0)];
    const text = printTable({ device: "a", rows });
    const path = join(root, "sorted.json");
    writeFileSync(path, text);
    expect(readTuning(path).rows.map((entry) => entry.rows)).toEqual([1, 8, 512]);
    expect(printTable(readTuning(path))).toBe(text);
    expect(text.split("\n").filter((line) => line.startsWith('{"op"'))).toHaveLength(3);
    // One measurement changes one line.
    const other = printTable({ device: "a", rows: mergeRows(rows, [row(8, 2048)]) }).split("\n");
    expect(other.filter((line, i) => line !== text.split("\n")[i])).toHaveLength(1);
  });

  it("takes a variant for its whole interval, the runner-up beside it, else the default", () => {
    const task = {
      kind: "task",
      task: "t",
      op: "linear",
      kernel: "linear",
      problem: { n: 1 },
      layouts: {},
      rows: 1,
      default: STANDARD,
    } as unknown as TaskRecord;
    const entry = (ahead: number, ratio: number, ratioHigh: number) => ({
      variant: { ...STANDARD, ahead },
      seconds: ratio,
      low: ratio,
      high: ratioHigh,
      ratio,
      ratioLow: ratio,
      ratioHigh,
    });
    const winner = (...others: readonly ReturnType<typeof entry>[]): unknown => {
      const final: FinalRecord = { kind: "final", task: "t", variants: [entry(0, 1, 1), ...others], elapsed: 0 };
      const [found] = rowsOfRecords([task, final]);
      return [found?.winner.params.ahead, found?.runnerUp?.params.ahead];
    };
    expect(winner()).toEqual([0, undefined]);
    expect(winner(entry(1024, 0.9, 0.95), entry(2048, 0.8, 1.2))).toEqual([1024, 2048]);
    expect(winner(entry(1024, 0.9, 0.95), entry(2048, 0.8, 0.9))).toEqual([2048, 1024]);
    expect(winner(entry(1024, 0.985, 0.995))).toEqual([0, 1024]);
  });

  it.each<[string, string, object]>([
    ["tuning-unknown-kernel", "of a kernel that there is not", { winner: { kernel: "matmul9000", params: {}, seconds: 1 } }],
    ["tuning-unknown-kernel", "of an op that there is not", { op: "convolution" }],
    ["tuning-unknown-kernel", "of a step that there is not", { op: "step_decode", winner: { kernel: "teleport", params: {}, seconds: 1 } }],
    [
      "tuning-unknown-parameter",
      "of a step's parameter that there is not",
      { op: "step_decode", winner: { kernel: "persistent", params: { chunk: 2 }, seconds: 1 } },
    ],
    [
      "tuning-unknown-parameter",
      "of a parameter that there is not",
      { winner: { kernel: "linear", params: { warp_size: 32 }, seconds: 1 } },
    ],
    ["tuning-unreadable", "of a time that is none", { winner: { kernel: "linear", params: {}, seconds: 0 } }],
  ])("is refused where it is named: %s, %s", (code, _, change) => {
    const path = join(root, "bad.json");
    writeFileSync(path, JSON.stringify({ device: "x", rows: [row(1, 0), { ...row(1, 0), ...change }] }));
    expect(() => readTuning(path)).toThrow(expect.objectContaining({ code }));
    // What a build finds by itself may be of another version.
    if (code !== "tuning-unreadable") expect(readTuning(path, { strict: false }).rows).toHaveLength(2);
  });
});

interface BuildJson {
  readonly tuning: { readonly device: string; readonly sources: readonly { readonly from: string }[] } | null;
  readonly kernels: readonly { readonly name: string }[];
}

describe("a build", () => {
  const user = join(root, "user");
  beforeAll(() => {
    mkdirSync(user);
    writeFileSync(
      join(user, `${DEVICE}.json`),
      printTable({
        device: DEVICE,
        rows: [row(1, 2048), row(1, 4096, 768), { ...row(8, 1024), winner: { kernel: "linear", params: { gone: 1 }, seconds: 1 } }],
      }),
    );
  });
  const dryRun = async (...flags: readonly string[]): Promise<BuildJson> =>
    JSON.parse(
      (await cliOk(["build", MODEL, "--dry-run", "--json", ...flags], { env: { ERNIE_COMPILE_TUNING: user } })).stdout,
    ) as BuildJson;
  const tuned = ({ kernels }: BuildJson): readonly string[] => kernels.map(({ name }) => name).filter((name) => name.includes("ahead"));

  it("takes what was measured on machines of this class by itself, and says so", async () => {
    const found = await dryRun();
    expect(found.tuning).toMatchObject({
      device: DEVICE,
      sources: expect.arrayContaining([expect.objectContaining({ from: "user" })]) as unknown,
    });
    expect(tuned(found)).toEqual([
      // Nearest to the row of n 256 and k 256, nearest to that of k 768, and of exactly that.
      "linear_bf16_f32_n1024_k256_ahead2048",
      "linear_bf16_f32_n256_k512_ahead4096",
      "linear_bf16_f32_n256_k768_ahead4096",
    ]);
  });

  it("takes none where it is told so, another where that is named, and none of another class", async () => {
    expect(await dryRun("--tuning", "none")).toMatchObject({ tuning: null });
    const path = join(root, "named.json");
    writeFileSync(path, printTable({ device: "else", rows: [row(1, 1024)] }));
    const named = await dryRun("--tuning", path);
    expect([named.tuning?.sources[0]?.from, tuned(named)]).toEqual([
      "file",
      ["linear_bf16_f32_n1024_k256_ahead1024", "linear_bf16_f32_n256_k512_ahead1024", "linear_bf16_f32_n256_k768_ahead1024"],
    ]);
    expect(tuned(await dryRun("--threads", String(availableParallelism() + 1)))).toEqual([]);
    const { exitCode } = await cli(["build", MODEL, "--dry-run", "--tuning", join(root, "bad.json")]);
    expect(exitCode).toBe(1);
  });

  it("writes the table's hash into the manifest, and the same package for the same table", async () => {
    const out = join(root, "package");
    await cliOk(["build", MODEL, "-o", out, "--weights", "synthetic:1"], { env: { ERNIE_COMPILE_TUNING: user } });
    const manifest = JSON.parse(readFileSync(join(out, "manifest.json"), "utf8")) as { tuning: BuildJson["tuning"]; build_id: string };
    expect(manifest.tuning).toMatchObject({
      device: DEVICE,
      sources: expect.arrayContaining([{ from: "user", sha256: expect.stringMatching(/^[0-9a-f]{64}$/) as string }]) as unknown,
    });
    const again = join(root, "again");
    await cliOk(["build", MODEL, "-o", again, "--weights", "synthetic:1", "--tuning", join(user, `${DEVICE}.json`)].slice(0, 6), {
      env: { ERNIE_COMPILE_TUNING: user },
    });
    expect((JSON.parse(readFileSync(join(again, "manifest.json"), "utf8")) as { build_id: string }).build_id).toBe(manifest.build_id);
  });
});
