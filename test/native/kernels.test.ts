/**
 * The kernel headers, each by itself: compiles their C++ tests for each arch level and runs those that this CPU can.
 * "plain" is the build without -march. With SANITIZE only this CPU's best level is built: the others take minutes to compile and have the same bounds.
 */

import { execa } from "execa";
import { describe, expect, it } from "vitest";
import { archFlags, bestArch, type CpuArch, missingFlags, readCpuFlags } from "../../src/toolchain/arch.js";
import { buildNative, sanitizers } from "./build-native.js";

const tests = ["attention", "rope", "rms_norm", "elementwise", "linear", "linear_swiglu", "head_argmax", "moe"] as const;
const cpu = readCpuFlags();

// x86-64-v4-vnni has nothing that these kernels would use: it is x86-64-v4 here.
const all: readonly (CpuArch | "plain")[] = ["plain", "x86-64-v3", "x86-64-v4", "x86-64-v4-bf16"];
const best = bestArch(cpu)?.replace("-vnni", "") ?? "plain";
const levels = all.filter((level) => !sanitizers || level === best);

describe.each(levels)("%s", (level) => {
  const runs = level === "plain" || missingFlags(level, cpu).length === 0;
  it.each(tests)(`%s ${runs ? "agrees with doubles and with itself" : "compiles (this CPU cannot run it)"}`, async (name) => {
    const binary = await buildNative({
      name: `${name}-${level}`,
      sources: [`test/native/${name}_test.cpp`],
      // As the toolchain compiles kernels, but -O1: the tests instantiate many shapes.
      flags: ["-O1", "-ffp-contract=off", ...(level === "plain" ? [] : archFlags(level))],
    });
    if (!runs) return;
    const result = await execa(binary, { reject: false, all: true, timeout: 200_000 });
    expect(result.exitCode, result.all).toBe(0);
  });
});
