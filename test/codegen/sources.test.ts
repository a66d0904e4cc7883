/**
 * Generated sources. Goldens of what two small models are made of (`npm run bless` rewrites them; read the diff as a reviewer would), and random models
 * for what must hold of all: every view fits its template, names are plain and tell kernels apart, the plan calls what is there.
 */

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { renderPlan } from "../../src/codegen/plan.js";
import { kernelSources } from "../../src/codegen/sources.js";
import { syntheticFill } from "../../src/codegen/synthetic.js";
import { declareWeights } from "../../src/frontend/weight-set.js";
import { type LoweredModel, lowerModel } from "../../src/lower.js";
import { config } from "../frontend/support.js";
import { FUSIONS, randomModel } from "../passes/lowering.js";
import { Random } from "../passes/soup.js";

const LIMITS = { maxContext: 256, maxBatch: 2, kvTokens: 512, prefillChunk: 32, blockSize: 32 };
type Input = Parameters<typeof lowerModel>[0];

function lower(model: Input["config"], activations: "f32" | "bf16", disablePasses: readonly string[] = []): LoweredModel {
  const input = {
    config: model,
    weights: declareWeights(model),
    activations,
    arch: "x86-64-v4-bf16",
    limits: LIMITS,
    deterministic: false,
  } as const;
  return lowerModel(input, { disablePasses });
}

function plan(lowered: LoweredModel, vocabSize: number): string {
  return renderPlan({
    version: "0.0.0",
    arch: "x86-64-v4-bf16",
    buildId: "0123456789abcdef",
    info: { model: { layers: 1 } },
    vocabSize,
    limits: LIMITS,
    threads: 0,
    kvBlockBytes: lowered.kvBlockBytes,
    weightsBytes: lowered.weights.bytes,
    weights: { kind: "synthetic", seed: 1, fills: lowered.weights.weights.map(syntheticFill) },
    programs: lowered.programs,
    kernels: lowered.kernels,
  });
}

function expectGolden(name: string, text: string): void {
  const path = fileURLToPath(new URL(`./goldens/${name}`, import.meta.url));
  if (process.env.BLESS || !existsSync(path)) writeFileSync(path, text);
  expect(text).toBe(readFileSync(path, "utf8"));
}

describe("goldens", () => {
  const dense = config("dense", { num_hidden_layers: 1 });
  const moe = config("moe", { num_hidden_layers: 2 });

  it("plan.cpp of a dense model of one layer", () => {
    const lowered = lower(dense, "bf16");
    const programs = lowered.programs.filter(({ graph }) => graph.name === "decode_s1" || graph.name === "prefill_t16");
    expectGolden("plan.cpp", plan({ ...lowered, programs }, dense.vocabSize));
  });

  it.each([
    ["linear", "dense", dense],
    ["attention", "dense", dense],
    ["rope_kv_append", "dense", dense],
    ["head_argmax", "dense", dense],
    ["moe_ffn", "moe", moe],
    ["moe_router", "moe", moe],
  ] as const)("%s of %s", (kernel, _, model) => {
    const { kernels } = lower(model, "bf16");
    const found = kernels.find((used) => used.kernel.name === kernel);
    if (!found) throw new Error(`no ${kernel}`);
    const [text = ""] = kernelSources([found]).values();
    expectGolden(`${kernel}.cpp`, text);
  });
});

describe("random models", () => {
  it("have sources whose names are plain, unique, and those that the plan calls", () => {
    fc.assert(
      fc.property(fc.noShrink(fc.integer({ min: 0, max: 2 ** 31 - 1 })), (seed) => {
        const random = new Random(seed);
        const { config: model, activations } = randomModel(random);
        const lowered = lower(
          model,
          activations,
          FUSIONS.filter(() => random.chance(0.2)),
        );
        const sources = kernelSources(lowered.kernels);
        expect(sources.size).toBe(lowered.kernels.length);
        const defined: string[] = [];
        for (const [path, text] of sources) {
          expect(path).toMatch(/^kernels\/[a-z0-9_]+\.cpp$/);
          // Printable, no template left over, as a person would write it.
          expect(text).toMatch(/^[\x20-\x7e\n]*$/);
          expect(text).not.toMatch(/\{\{(?! \{)|[ \t]\n|\n\n\n|undefined|NaN|\[object/);
          defined.push(...[...text.matchAll(/^void ([a-z0-9_]+)\(const Step& step/gm)].map((match) => match[1] as string));
        }
        expect(new Set(defined).size).toBe(defined.length);
        const text = plan(lowered, model.vocabSize);
        const declared = [...text.matchAll(/^void ([a-z0-9_]+)\(const Step& step/gm)].map((match) => match[1] as string);
        expect(declared.sort()).toEqual(defined.sort());
        expect(text).toMatch(/^[\x20-\x7e\n]*$/);
        expect(text).not.toMatch(/undefined|NaN|\[object/);
      }),
      { numRuns: 40 },
    );
  });
});
