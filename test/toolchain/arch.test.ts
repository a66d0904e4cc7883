import { writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  ARCH_LEVELS,
  ARCH_NAMES,
  type ArchLevel,
  archFlags,
  bestArch,
  missingFlags,
  readCpuFlags,
  resolveArch,
} from "../../src/toolchain/arch.js";

const flagsOf = (level: ArchLevel) => new Set<string>(ARCH_LEVELS[level].needs);

describe("arch levels", () => {
  it("resolve `native` to the highest level whose every flag the CPU has", () => {
    for (const level of ARCH_NAMES) expect(resolveArch("native", () => flagsOf(level))).toBe(level);
    const almost = flagsOf("x86-64-v4");
    almost.delete("avx512vl");
    expect(bestArch(almost)).toBe("x86-64-v3");
    expect(missingFlags("x86-64-v4", almost)).toEqual(["avx512vl"]);
  });

  it("never become -march=native", () => {
    for (const level of ARCH_NAMES) expect(archFlags(level).join(" ")).not.toMatch(/native|tune/);
  });

  it("build for another machine without asking this one", () => {
    const asked = () => {
      throw new Error("asked the CPU");
    };
    expect(resolveArch("x86-64-v4-bf16", asked)).toBe("x86-64-v4-bf16");
  });

  it("refuse what they don't know, and say so apart from what is not supported yet", () => {
    expect(() => resolveArch("native", () => new Set(["avx"]))).toThrow(/lacks avx2/);
    expect(() => resolveArch("sm_90a")).toThrow(/not yet supported/);
    expect(() => resolveArch("pentium")).toThrow(/expected native or one of x86-64-v3/);
  });

  it("read flags as the kernel writes them", () => {
    const path = join(tmpdir(), `ern-cpuinfo-${process.pid}`);
    writeFileSync(path, "processor\t: 0\nflags\t\t: fpu avx avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n");
    expect([...readCpuFlags(path)]).toEqual(["fpu", "avx", "avx2"]);
    expect(readCpuFlags("/nowhere")).toEqual(new Set());
  });
});
