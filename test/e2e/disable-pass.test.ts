/**
 * Every fusion is a choice, not a need: without any one of them the package still computes what the goldens say, from other sources and with more
 * launches. last-token-head saves work, not launches.
 */

import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { FUSION_PASSES } from "../../src/passes/pipeline.js";
import { expectGolden, type Manifest, packageFiles, readManifest } from "./packages.js";
import { buildPackage, GOLDENS } from "./support.js";

const FUSIONS = FUSION_PASSES.map(({ name }) => name).filter((name) => name !== "canonicalize");
/** What a pass finds nothing to do in. */
const IDLE: { readonly [golden: string]: readonly string[] } = { dense: ["fuse-moe"], moe: [] };

describe.each(Object.keys(IDLE))("%s", (golden) => {
  const model = join(GOLDENS, golden);

  it.each(FUSIONS)("without %s", async (pass) => {
    const whole = await buildPackage(model, "--activations", "f32");
    const without = await buildPackage(model, "--activations", "f32", "--disable-pass", pass);
    await expectGolden(without, golden);
    const [before, after] = [await readManifest(whole), await readManifest(without)];
    const isIdle = IDLE[golden]?.includes(pass);
    if (isIdle) expect(after.programs).toEqual(before.programs);
    else if (pass.startsWith("fuse-")) expect(launches(after)).toBeGreaterThan(launches(before));
    const [mine, theirs] = [await sources(without), await sources(whole)];
    if (isIdle) expect(mine).toEqual(theirs);
    else expect(mine).not.toEqual(theirs);
  });

  it("without all of them", async () => {
    const whole = await buildPackage(model, "--activations", "f32");
    const without = await buildPackage(model, "--activations", "f32", ...FUSIONS.flatMap((pass) => ["--disable-pass", pass]));
    await expectGolden(without, golden);
    expect(launches(await readManifest(without))).toBeGreaterThan(1.3 * launches(await readManifest(whole)));
  });
});

/** Over all programs: one alone may lack a pattern, as decode has one row a sequence already. */
function launches({ programs }: Manifest): number {
  return programs.reduce((total, program) => total + program.launches, 0);
}

/** Kernels and plan. */
async function sources(folder: string): Promise<readonly (readonly [string, string])[]> {
  return [...(await packageFiles(folder))].filter(([path]) => path.startsWith("build/kernels/") || path === "build/src/plan.cpp");
}
