/** Decode programs as one launch: which become one, what it takes, what is left; and what is refused. */

import { describe, expect, it } from "vitest";
import { renderPlan } from "../../../src/codegen/plan.js";
import { kernelSources } from "../../../src/codegen/sources.js";
import { syntheticFill } from "../../../src/codegen/synthetic.js";
import { type ModelConfig, parseConfig } from "../../../src/frontend/config.js";
import { presetConfig } from "../../../src/frontend/presets.js";
import { declareWeights } from "../../../src/frontend/weight-set.js";
import type { NodeOf, Value } from "../../../src/ir/graph.js";
import { persistentArguments } from "../../../src/kernels/cuda/persistent.js";
import { type LoweredModel, lowerModel } from "../../../src/lower.js";
import type { ArchLevel } from "../../../src/toolchain/arch.js";
import { config } from "../../frontend/support.js";

const LIMITS = { maxContext: 8192, maxBatch: 64, kvTokens: 16384, prefillChunk: 128, blockSize: 64 };

function preset(name: "ernie-4.5-0.3b" | "ernie-4.5-21b-a3b", layers: number): ModelConfig {
  const { config: model } = parseConfig({ ...presetConfig(name), num_hidden_layers: layers }, name);
  return model;
}

function lower(
  model: ModelConfig,
  decode: "launches" | "persistent",
  arch: ArchLevel = "sm_90a",
  disablePasses: readonly string[] = [],
): LoweredModel {
  const input = {
    config: model,
    weights: declareWeights(model),
    activations: "bf16",
    arch,
    limits: LIMITS,
    deterministic: false,
    decode,
  } as const;
  return lowerModel(input, { disablePasses });
}

function calls(lowered: LoweredModel, program: string): readonly NodeOf<"call">[] {
  const found = lowered.programs.find(({ graph }) => graph.name === program);
  return (found?.graph.nodes ?? []).filter((node): node is NodeOf<"call"> => node.op === "call");
}

describe("a dense model", () => {
  const model = preset("ernie-4.5-0.3b", 3);
  const before = lower(model, "launches");
  const after = lower(model, "persistent");

  it("has one call in each bucket of up to eight sequences, and keeps its launches in the others", () => {
    for (const tokens of [1, 2, 4, 8]) {
      const [call, ...more] = calls(after, `decode_s${tokens}`);
      expect(more).toEqual([]);
      expect(call?.attrs.kernel).toBe(`persistent_decode_l3_w1024_f3072_s${tokens}`);
    }
    for (const program of ["decode_s16", "decode_s64", "prefill_t16"]) {
      expect(calls(after, program).map(({ attrs }) => attrs.kernel)).toEqual(calls(before, program).map(({ attrs }) => attrs.kernel));
    }
  });

  it("passes the same memory under the kernel's names", () => {
    const placeOf = (lowered: LoweredModel, value: Value | undefined): string => {
      for (const { graph } of lowered.programs)
        for (const node of graph.nodes)
          if (node.op === "buffer" && node.results[0] === value) return `${node.attrs.space}+${node.attrs.offset}`;
      throw new Error("an argument that is no buffer");
    };
    const [call] = calls(after, "decode_s1");
    const given = new Map(persistentArguments(3).map(({ name }, i) => [name, placeOf(after, call?.operands.args[i])]));
    expect(call?.operands.args).toHaveLength(given.size);
    // As the launches have them: embedding; qkv, attention, o, up, down of each layer; head.
    const launches = calls(before, "decode_s1").map(({ operands }) => operands.args.map((value) => placeOf(before, value)));
    const at = (launch: number, arg: number) => launches[launch]?.[arg];
    expect([given.get("ids"), given.get("embedding")]).toEqual([at(0, 0), at(0, 1)]);
    for (let layer = 0; layer < 3; ++layer) {
      const first = 1 + 5 * layer;
      const names = ["qkv", "attention_norm", "kv", "o", "up", "ffn_norm", "down"];
      const found = [at(first, 1), at(first, 2), at(first + 1, 3), at(first + 2, 1), at(first + 3, 1), at(first + 3, 2), at(first + 4, 1)];
      expect(names.map((name) => given.get(`${name}.${layer}`))).toEqual(found);
    }
    expect(["positions", "slots", "block_table", "context"].map((name) => given.get(name))).toEqual([
      at(2, 1),
      at(2, 2),
      at(2, 4),
      at(2, 5),
    ]);
    expect(["head", "norm", "logits", "next"].map((name) => given.get(name))).toEqual([at(16, 1), at(16, 2), at(16, 3), at(16, 4)]);
  });

  it("is generated with a launch whose blocks all run at once", () => {
    const sources = kernelSources(after.kernels);
    const text = sources.get("kernels/persistent_decode_l3_w1024_f3072_s1.cu") ?? "";
    expect(text).toContain("const __grid_constant__ Arguments arguments");
    expect(text).toMatch(/^[\x20-\x7e\n]*$/);
    expect(text).not.toMatch(/undefined|NaN|\[object/);
    const plan = renderPlan({
      version: "0.0.0",
      arch: "sm_90a",
      buildId: "0123456789abcdef",
      info: {},
      vocabSize: model.vocabSize,
      limits: LIMITS,
      threads: 0,
      kvBlockBytes: after.kvBlockBytes,
      weightsBytes: after.weights.bytes,
      weights: { kind: "synthetic", seed: 1, fills: after.weights.weights.map(syntheticFill) },
      programs: after.programs,
      kernels: after.kernels,
    });
    expect(plan).toMatch(/"persistent_decode_l3_w1024_f3072_s1", 384, \d+, 1, 0, 128 \}/);
    expect(plan).toMatch(/"embedding_row_bf16_f32_n103424_w1024", \d+, 0, 1, 0, 0 \}/);
  });

  it("has no kernel that nobody calls", () => {
    const called = new Set(
      after.programs.flatMap(({ graph }) => graph.nodes.flatMap((node) => (node.op === "call" ? [node.attrs.kernel] : []))),
    );
    for (const { name, functions } of after.kernels)
      expect(
        functions.some((entry) => called.has(entry.name)),
        name,
      ).toBe(true);
    expect(before.kernels.some(({ name }) => name.startsWith("persistent"))).toBe(false);
  });
});

describe("refused, with the reason", () => {
  it.each([
    ["a model with experts", () => lower(preset("ernie-4.5-21b-a3b", 2), "persistent"), /where linear_swiglu is expected/],
    ["a model that is too narrow", () => lower(config("dense"), "persistent"), /no launch does a whole decode step/],
    ["an older GPU", () => lower(preset("ernie-4.5-0.3b", 2), "persistent", "sm_80"), /it takes sm_90a, not sm_80/],
    [
      "norms that are launches of their own",
      () => lower(preset("ernie-4.5-0.3b", 2), "persistent", "sm_90a", ["fuse-norm"]),
      /no launch does/,
    ],
  ] as const)("%s", (_, make, message) => {
    expect(make).toThrow(message);
  });
});
