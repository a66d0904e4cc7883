/** What is read off the compilers of GPU packages, and the driver's interface as the runtime declares it. */

import { join } from "node:path";
import { execa } from "execa";
import { beforeAll, describe, expect, it } from "vitest";
import { installCuda, installedCuda } from "../../src/toolchain/cuda-install.js";
import { findNvcc, parseUse } from "../../src/toolchain/nvcc.js";
import { root } from "../native/build-native.js";

const REPORT = `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'good' for 'sm_90a'
ptxas info    : Function properties for good
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 96 registers, used 1 barriers
ptxas info    : Compiling entry function 'bad_last' for 'sm_90a'
ptxas info    : Function properties for bad_last
    40 bytes stack frame, 32 bytes spill stores, 52 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 40 bytes cumulative stack size
`;

describe("nvcc", () => {
  it("says what each kernel keeps outside of registers", () => {
    expect(parseUse(REPORT)).toEqual([
      { kernel: "good", registers: 96, stackBytes: 0, spillBytes: 0 },
      { kernel: "bad_last", registers: 128, stackBytes: 40, spillBytes: 84 },
    ]);
  });

  it("is looked for where it was said to be, and nowhere else", async () => {
    await expect(findNvcc({ cuda: "/nowhere" })).rejects.toThrow(
      /nvcc-missing: \/nowhere\/bin\/nvcc can't be run[\s\S]*toolchain install cuda/,
    );
    await expect(findNvcc({ env: { CUDA_HOME: "/nowhere" } })).rejects.toThrow(/CUDA_HOME/);
  });
});

describe("the driver's interface", () => {
  beforeAll(async () => {
    if (!installedCuda()) await installCuda();
  }, 400_000);

  it("is that of cuda.h", async () => {
    const toolkit = installedCuda()?.toolkit ?? "";
    const flags = ["-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Iruntime", "-Iruntime/src", "-isystem", join(toolkit, "include")];
    const { exitCode, all } = await execa("g++", [...flags, "test/native/cuda_abi.cpp"], { cwd: root, reject: false, all: true });
    expect(exitCode, all).toBe(0);
  }, 60_000);
});
