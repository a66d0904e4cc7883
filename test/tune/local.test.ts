/** Measuring on this machine: right variants of every op pass, and whatever a bad one does ends its own process and is told apart. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { bestArch, readCpuFlags } from "../../src/toolchain/arch.js";
import { Cache } from "../../src/toolchain/cache.js";
import { findCompiler } from "../../src/toolchain/compiler.js";
import type { Backend } from "../../src/tune/backend.js";
import { openLocal } from "../../src/tune/local-cpu.js";
import type { Machine } from "../../src/tune/records.js";
import { defaultVariant, parseTask, type Task } from "../../src/tune/task.js";
import { type RenderVariant, renderVariant } from "../../src/tune/variants.js";

const ARCH = bestArch(readCpuFlags()) ?? "x86-64-v3";
const MACHINE: Machine = { cpu: "this", threads: 2, arch: ARCH, cacheBytes: 2 ** 16 };
const root = mkdtempSync(join(tmpdir(), "ernie-compile-tune-test-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

async function open(render: RenderVariant = renderVariant, deadlineMs = 20_000): Promise<Backend> {
  const native = { compiler: await findCompiler(), cache: new Cache(join(root, "cache")) };
  return openLocal({ arch: ARCH, machine: MACHINE, native, deadlineMs, render });
}

function task(key: string): Task {
  const found = parseTask(key);
  if (!found) throw new Error(`no task: ${key}`);
  return found;
}

const LINEAR = task(
  "linear/linear bias=true k=34 n=72 out=bf16 weight_dtype=bf16 x=bf16 bias_dtype=f32 bias@=row weight@=panel64 rows=7"
    .split(" ")
    .sort(order)
    .join(" "),
);

/** As makeTask writes them: parameters sorted, then layouts, then rows. */
function order(a: string, b: string): number {
  const rank = (word: string): string => `${word.includes("/") ? 0 : word.startsWith("rows=") ? 3 : word.includes("@=") ? 2 : 1}${word}`;
  return rank(a) < rank(b) ? -1 : 1;
}

describe("a right variant", () => {
  it.each([
    "linear/linear bias=true bias_dtype=f32 k=34 n=72 out=bf16 weight_dtype=bf16 x=bf16 bias@=row weight@=panel64 rows=7",
    "linear/linear bias=false k=33 n=100 out=f32 weight_dtype=f32 x=f32 weight@=panel64 rows=1",
    "linear_swiglu/linear_swiglu bias=false group=32 k=64 n=192 out=bf16 weight_dtype=bf16 x=bf16 weight@=panel64 rows=13",
    "head_argmax/head_argmax bias=false k=64 n=200 weight_dtype=bf16 x=bf16 weight@=panel64 rows=2",
    "moe_router/moe_router chosen=3 correction=true correction_dtype=f32 experts=16 gate_dtype=f32 hidden=48 norm_min=1e-12 x=f32 correction@=row gate@=panel64 rows=5",
    "moe_ffn/moe_ffn addend=true chosen=2 down_dtype=bf16 experts=8 gate_up_dtype=bf16 group=32 hidden=64 m=96 x=bf16 down@=panel64 gate_up@=panel64 rows=9",
  ])("of %s is found right, and timed", async (key) => {
    const backend = await open();
    const given = task(key);
    const first = await backend.trial({ task: given, variant: defaultVariant(given), incumbent: () => undefined, seed: 3 });
    expect(first.reason).toBeUndefined();
    expect(first).toMatchObject({ status: "ok", seconds: expect.any(Number) as number });
    const variant = { ...defaultVariant(given), tile_rows: 4, k_block: 128 };
    const incumbent = { variant: defaultVariant(given), seconds: first.seconds as number };
    const second = await backend.trial({ task: given, variant, incumbent: () => incumbent, seed: 4 });
    expect(second).toMatchObject({ status: "ok", incumbent: defaultVariant(given) });
    expect(second.low as number).toBeLessThanOrEqual(second.seconds as number);
    expect(second.high as number).toBeGreaterThanOrEqual(second.seconds as number);
    const [standard, other] = await backend.final({ task: given, variants: [defaultVariant(given), variant], seed: 5 });
    expect([standard?.ratio, other?.variant]).toEqual([1, variant]);
    await backend.close();
  });
});

describe("a bad variant", () => {
  /** The default's source, with a bad function in place of the kernel's for one value of a tunable. */
  const withBody =
    (body: string): RenderVariant =>
    (given, variant) =>
      variant.tile_rows === 4
        ? `#include "device/cpu/kernel.hpp"\nextern "C" [[gnu::visibility("default")]] void ern_tune_kernel(const ern::Step& step, void* const* args, ern::Team& team) {\n  (void)step, (void)args, (void)team;\n  ${body}\n}\n`
        : renderVariant(given, variant);

  it.each([
    ["writes nothing", ";", "wrong", "out[0] is NaN, or was not written"],
    ["writes zeros", "if (team.rank == 0) __builtin_memset(args[3], 0, 7 * 72 * 2);", "wrong", "out has an error of 1.0e+0"],
    ["writes too far", "if (team.rank == 0) __builtin_memset(args[3], 0, 7 * 72 * 2 + 1);", "wrong", "wrote behind the end of argument 3"],
    ["crashes", "*static_cast<volatile int*>(nullptr) = 1;", "crash", "ended by SIGSEGV"],
    ["exits", "__builtin_trap();", "crash", "ended by SIGILL"],
    ["hangs", "for (volatile int i = 0;; i = i + 1) {}", "hang", "did not end within 1.5 s"],
    ["does not compile", "this is no C++", "compile", "did not make"],
  ])("that %s", async (_, body, status, reason) => {
    const backend = await open(withBody(body), 1500);
    const standard = defaultVariant(LINEAR);
    const variant = { ...standard, tile_rows: 4 };
    const result = await backend.trial({ task: LINEAR, variant, incumbent: () => ({ variant: standard, seconds: 1e-5 }), seed: 1 });
    expect(result).toMatchObject({ status, reason: expect.stringContaining(reason) as string });
    expect(result.seconds).toBeUndefined();
    // Among finalists it is left out, and the others are compared without it.
    if (status !== "compile") {
      const finalists = await backend.final({ task: LINEAR, variants: [standard, variant, { ...standard, k_block: 128 }], seed: 2 });
      expect(finalists.map(({ variant: { tile_rows, k_block } }) => [tile_rows, k_block])).toEqual([
        [0, 256],
        [0, 128],
      ]);
    }
    await backend.close();
  });

  it("that differs from the incumbent in bits is wrong, however close it is", async () => {
    const scaled: RenderVariant = (given, variant) => {
      const text = renderVariant(given, variant);
      if (variant.tile_rows !== 4) return text;
      const call = /(ern::kernels::\w+\(step, args, team\);)/;
      return text.replace(call, "$1\n  team.barrier();\n  if (team.rank == 0) static_cast<unsigned short*>(args[3])[5] ^= 1;");
    };
    const backend = await open(scaled);
    const standard = defaultVariant(LINEAR);
    const incumbent = { variant: standard, seconds: 1e-5 };
    const result = await backend.trial({ task: LINEAR, variant: { ...standard, tile_rows: 4 }, incumbent: () => incumbent, seed: 1 });
    expect(result).toMatchObject({ status: "wrong", reason: expect.stringContaining("bits") as string });
    await backend.close();
  });
});
