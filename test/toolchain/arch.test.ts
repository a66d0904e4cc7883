import { writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  ARCH_LEVELS,
  ARCH_NAMES,
  archFlags,
  bestArch,
  type CpuArch,
  missingFlags,
  readCpuFlags,
  resolveArch,
} from "../../src/toolchain/arch.js";

const flagsOf = (level: CpuArch) => new Set<string>(ARCH_LEVELS[level].needs);
const machine = (cpuFlags: () => ReadonlySet<string>, gpu: () => string | undefined = () => undefined) => ({ cpuFlags, gpu });

describe("arch levels", () => {
  it("resolve `native` to the highest level whose every flag the CPU has", () => {
    for (const level of ARCH_NAMES)
      expect(
        resolveArch(
          "native",
          "cpu",
          machine(() => flagsOf(level)),
        ),
      ).toBe(level);
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
    expect(resolveArch("x86-64-v4-bf16", "cpu", machine(asked))).toBe("x86-64-v4-bf16");
    expect(resolveArch("sm_90a", "cuda", machine(asked, asked))).toBe("sm_90a");
  });

  it("refuse what they don't know, and say so apart from what is not supported yet", () => {
    const old = machine(() => new Set(["avx"]));
    expect(() => resolveArch("native", "cpu", old)).toThrow(/lacks avx2/);
    expect(() => resolveArch("pentium")).toThrow(/expected native or one of x86-64-v3/);
    expect(() => resolveArch("sm_100a", "cuda")).toThrow(/not yet supported/);
  });

  it("belong to a target", () => {
    expect(() => resolveArch("sm_90a")).toThrow(/with target cpu[\s\S]*--target cuda/);
    expect(() => resolveArch("x86-64-v3", "cuda")).toThrow(/with target cuda[\s\S]*--target cpu/);
  });

  it("resolve `native` to what the GPU runs", () => {
    const none = () => new Set<string>();
    const found = (capability: string | undefined) => () =>
      resolveArch(
        "native",
        "cuda",
        machine(none, () => capability),
      );
    expect(found("9.0")()).toBe("sm_90a");
    expect(found("8.0")()).toBe("sm_80");
    expect(found("8.9")()).toBe("sm_80");
    expect(found("7.5")).toThrow(/capability 7.5/);
    expect(found("10.0")).toThrow(/capability 10.0/);
    expect(found(undefined)).toThrow(/no GPU[\s\S]*--arch sm_80 or sm_90a/);
  });

  it("read flags as the kernel writes them", () => {
    const path = join(tmpdir(), `ern-cpuinfo-${process.pid}`);
    writeFileSync(path, "processor\t: 0\nflags\t\t: fpu avx avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n");
    expect([...readCpuFlags(path)]).toEqual(["fpu", "avx", "avx2"]);
    expect(readCpuFlags("/nowhere")).toEqual(new Set());
  });
});
