/**
 * Compiled packages with f32 activations against what Hugging Face transformers computes in f32: as one prefill, in chunks of 7, and token by
 * token through decode. 1e-9 is what is left of f32 rounding in two different orders of summation over a few layers.
 */

import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readFloats, readIntegers } from "../../src/weights/read-tensor.js";
import { readSafetensorsHeader } from "../../src/weights/safetensors.js";
import { buildPackage, cliOk, GOLDENS, nmse, WORK } from "./support.js";

const CASES = ["dense", "dense-bias-untied", "moe", "moe-no-shared-untied"];
const LIMIT = 1e-9;

describe.each(CASES)("%s", (name) => {
  const golden = join(GOLDENS, name, "golden.safetensors");

  it.each([
    ["one prefill", []],
    ["chunks of 7", ["--chunk", "7"]],
    ["decode, token by token", ["--chunk", "1"]],
  ])("logits and greedy ids: %s", async (_, chunk) => {
    const folder = await buildPackage(join(GOLDENS, name), "--activations", "f32");
    const out = join(WORK, `${name}-f32${chunk.join("")}.safetensors`);
    await cliOk(["logits", folder, "--ids", await promptIds(golden), "--greedy", "8", ...chunk, "-o", out]);
    for (const tensor of ["logits", "greedy_logits"]) {
      expect(nmse((await readFloats(out, tensor)).data, (await readFloats(golden, tensor)).data), tensor).toBeLessThan(LIMIT);
    }
    expect((await readIntegers(out, "greedy_ids")).data).toEqual((await readIntegers(golden, "greedy_ids")).data);
  });

  it.each([[[]], [["--chunk", "7"]]])("hidden states and router tensors, %j", async (chunk) => {
    const folder = await buildPackage(join(GOLDENS, name), "--activations", "f32");
    const out = join(WORK, `${name}-f32-trace${chunk.join("")}.safetensors`);
    await cliOk(["logits", folder, "--ids", await promptIds(golden), "--trace", ...chunk, "-o", out]);
    const traced = [...(await readSafetensorsHeader(golden)).tensors.values()].filter(({ name: tensor }) =>
      /^(hidden|final_norm|router)/.test(tensor),
    );
    expect(traced.length).toBeGreaterThan(2);
    for (const { name: tensor, dtype } of traced) {
      if (dtype === "F32")
        expect(nmse((await readFloats(out, tensor)).data, (await readFloats(golden, tensor)).data), tensor).toBeLessThan(LIMIT);
      else expect((await readIntegers(out, tensor)).data, tensor).toEqual((await readIntegers(golden, tensor)).data);
    }
  });
});

async function promptIds(golden: string): Promise<string> {
  return [...(await readIntegers(golden, "input_ids")).data].join(",");
}
