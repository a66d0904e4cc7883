/** The GPU's random draws on the host, thread by thread (simt.hpp). */

import { join } from "node:path";
import { execa } from "execa";
import { describe, expect, it } from "vitest";
import { installCuda, installedCuda } from "../../src/toolchain/cuda-install.js";
import { buildNative, sanitizers } from "./build-native.js";

// CUDA's own headers are read as they are; what ours say to its compiler alone, this one needn't know.
const FLAGS = ["-Wno-unknown-pragmas", "-Wno-unused-parameter", "-Wno-strict-aliasing"];

// Address sanitizers don't follow from one stack to another; the kernel has no allocation of its own to look at.
describe.skipIf(sanitizers !== "")("random draws on a GPU", () => {
  it("find the tokens that an obvious program finds", async () => {
    const { toolkit } = installedCuda() ?? (await installCuda());
    const flags = [...FLAGS, "-isystem", join(toolkit, "include")];
    const program = await buildNative({ name: "draw", sources: ["test/native/draw_test.cpp"], flags });
    const { exitCode, all } = await execa(program, [], { reject: false, all: true });
    expect(exitCode, all).toBe(0);
  }, 500_000);
});
