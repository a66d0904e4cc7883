/** Tasks: what they are of a model, their keys there and back, and the spaces that constraints leave. */

import { describe, expect, it } from "vitest";
import type { AnyKernel } from "../../src/kernels/kernel-def.js";
import { KERNELS } from "../../src/kernels/table.js";
import { ARCH_NAMES } from "../../src/toolchain/arch.js";
import { deviceClass, isDeviceClass } from "../../src/tune/device.js";
import { matching, shardOf } from "../../src/tune/model-tasks.js";
import { isTunedOp } from "../../src/tune/problems.js";
import { defaultVariant, indexOf, parseTask, parseVariant, type Task, taskSpace, variantKey } from "../../src/tune/task.js";
import { recordedTasks } from "./recording.js";

const LINEAR = "linear/linear bias=false k=64 n=128 out=f32 weight_dtype=bf16 x=bf16 weight@=panel64";
const linear = (rows: number, x = "bf16"): Task => parseTask(`${LINEAR.replace(" x=bf16", ` x=${x}`)} rows=${rows}`) as Task;

describe("the tasks of a model", () => {
  it("are of its shapes, each once, whatever model has them", async () => {
    const tasks = await recordedTasks();
    expect(new Set(tasks.map(({ key }) => key)).size).toBe(tasks.length);
    expect([...new Set(tasks.map(({ kernel }) => kernel.name))].sort()).toEqual([
      "head_argmax",
      "linear",
      "linear_swiglu",
      "moe_ffn",
      "moe_router",
    ]);
    expect([...new Set(tasks.map(({ rows }) => rows))].sort()).toEqual([1, 64, 8]);
    // The head of a prefill step has one row a sequence, which is the task of a decode step.
    expect(tasks.filter(({ kernel }) => kernel.name === "head_argmax").map(({ rows }) => rows)).toEqual([1, 8]);
    for (const task of tasks) expect(task.key).not.toContain("mini");
  });

  it("are counted by step, for what they weigh in the model", async () => {
    const [down] = (await recordedTasks()).filter(({ kernel, rows }) => kernel.name === "linear" && rows === 64);
    expect(Object.keys(down?.launches ?? {})).toEqual(["prefill_t64"]);
    expect(down?.launches?.prefill_t64).toBeGreaterThan(0);
  });

  it("have keys that give them back, and only them", async () => {
    for (const task of await recordedTasks()) {
      const { launches: _, ...rest } = task;
      expect(parseTask(task.key)).toEqual(rest);
    }
    for (const key of [
      "",
      "linear/linear",
      "linear/linear rows=1",
      `${LINEAR} rows=0`,
      `${LINEAR} rows=1.5`,
      `${LINEAR} rows=1 y=2`,
      `${LINEAR} rows=1 `,
    ])
      expect(parseTask(key)).toBeUndefined();
    expect(parseTask(`${LINEAR.replace("panel64", "row")} rows=1`)).toBeUndefined();
    expect(parseTask(`${LINEAR.replace("k=64", "k=1e400")} rows=1`)).toBeUndefined();
    expect(parseTask(`rms_norm/rms_norm width=64 rows=1`)).toBeUndefined();
  });

  it("are split the same way everywhere, and found by globs", async () => {
    const tasks = await recordedTasks();
    const parts = Array.from({ length: 5 }, (_, i) => shardOf(tasks, i + 1, 5));
    expect(
      parts
        .flat()
        .map(({ key }) => key)
        .sort(),
    ).toEqual(tasks.map(({ key }) => key).sort());
    expect(Math.max(...parts.map((part) => part.length)) - Math.min(...parts.map((part) => part.length))).toBeLessThanOrEqual(1);
    expect(matching(tasks, "linear")).toHaveLength(tasks.filter(({ kernel }) => kernel.name === "linear").length);
    expect(matching(tasks, "*")).toHaveLength(tasks.length);
    expect(matching(tasks, "l.near")).toEqual([]);
  });
});

describe("a space", () => {
  it("holds the default, and variants that come back from their keys, at every level and size", () => {
    for (const arch of ARCH_NAMES) {
      for (const rows of [1, 2, 4, 5, 6, 7, 16, 47, 48, 64, 192, 193, 512, 4096]) {
        for (const x of ["bf16", "f32"]) {
          const task = linear(rows, x);
          const space = taskSpace(task, arch);
          expect(indexOf(space, defaultVariant(task))).toBeDefined();
          const last = space.configuration(space.size - 1);
          expect(parseVariant(task, variantKey(last))).toEqual({ ...last });
        }
      }
    }
  });

  it("is of what can differ: one row is a stream, and more rows have tiles and blocks", () => {
    const varied = (rows: number): readonly string[] => {
      const space = taskSpace(linear(rows), "x86-64-v4-bf16");
      return space.parameters.flatMap(({ name }, p) =>
        new Set(Array.from({ length: space.size }, (_, i) => space.code(i, p))).size > 1 ? [name] : [],
      );
    };
    expect(varied(1)).toEqual(["ahead"]);
    expect(varied(8)).toEqual(["tile_rows", "few_block", "next"]);
    expect(varied(512)).toEqual(["tile_rows", "k_block", "few_block", "row_block", "next"]);
  });

  it("of a constraint that forbids the default is a bug, and of one that leaves nothing is refused", () => {
    const kernel = (constraint: AnyKernel["constraint"]): Task => ({
      ...linear(8),
      kernel: { ...linear(8).kernel, constraint } as AnyKernel,
    });
    expect(() =>
      taskSpace(
        kernel(({ tile_rows }) => tile_rows === 4),
        "x86-64-v4",
      ),
    ).toThrow(expect.objectContaining({ code: "tune-space-default", kind: "bug" }));
    expect(() =>
      taskSpace(
        kernel(() => false),
        "x86-64-v4",
      ),
    ).toThrow(expect.objectContaining({ code: "tune-space-empty" }));
  });

  it("is there for every CPU kernel with tunables but the one that stands in for a fused one", () => {
    const untuned = KERNELS.filter(({ target, op, tunables }) => target === "cpu" && tunables?.length && !isTunedOp(op)).map(
      ({ name }) => name,
    );
    expect(untuned).toEqual(["expert_linear"]);
  });
});

describe("a device class", () => {
  it("says level, maker, family, model and threads, whatever the file says", () => {
    const cpuinfo = "vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n";
    expect(deviceClass("x86-64-v4-bf16", 2, cpuinfo)).toBe("x86-64-v4-bf16-amd-1a-02-2t");
    expect(deviceClass("x86-64-v3", 8, "vendor_id : ../../etc\n")).toBe("x86-64-v3-cpu-00-00-8t");
    expect([isDeviceClass("x86-64-v3-cpu-00-00-8t"), isDeviceClass("../x"), isDeviceClass("")]).toEqual([true, false, false]);
  });
});
