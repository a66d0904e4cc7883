/** Every level of instruction set, and the other compiler: the numbers are the goldens' whatever the kernels were compiled for and with. */

import { join } from "node:path";
import { execaSync } from "execa";
import { describe, expect, it } from "vitest";
import { ARCH_NAMES, bestArch, missingFlags, readCpuFlags } from "../../src/toolchain/arch.js";
import { expectGolden, readManifest } from "./packages.js";
import { buildPackage, cli, GOLDENS } from "./support.js";

const flags = readCpuFlags();
const MODELS = ["dense", "moe"];
const best = bestArch(flags);
const CLANG = ["clang++", "clang++-14"].find((command) => execaSync(command, ["--version"], { reject: false }).exitCode === 0);

describe.each(ARCH_NAMES)("%s", (arch) => {
  const missing = missingFlags(arch, flags);

  describe.each(["f32", "bf16"] as const)("%s", (activations) => {
    it.each(MODELS)("%s", async (model) => {
      const folder = await buildPackage(join(GOLDENS, model), "--arch", arch, "--activations", activations);
      expect((await readManifest(folder)).target.arch).toBe(arch);
      if (missing.length === 0) await expectGolden(folder, model, activations);
      else {
        // Building for another machine is fine; running there is refused before the first instruction that is not there.
        const { exitCode, stderr } = await cli(["run", folder, "-p", "x"]);
        expect(exitCode).toBe(1);
        expect(stderr).toContain(arch);
      }
    });
  });
});

it("native is the highest level of this CPU", async () => {
  const folder = await buildPackage(join(GOLDENS, "dense"));
  expect((await readManifest(folder)).target.arch).toBe(best);
});

describe("clang++", () => {
  it.for(MODELS)("%s", async (model, { skip }) => {
    if (!CLANG) return skip("clang++ is not installed");
    const folder = await buildPackage(join(GOLDENS, model), "--activations", "f32", "--cxx", CLANG);
    await expectGolden(folder, model);
  });
});
