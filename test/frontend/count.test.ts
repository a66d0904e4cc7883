import { expect, it } from "vitest";
import { parseConfig } from "../../src/frontend/config.js";
import { countModel, kvBytesPerToken, tokensThatFit } from "../../src/frontend/count.js";
import { type PresetName, presetConfig } from "../../src/frontend/presets.js";
import { config, GOLDENS } from "./support.js";

function preset(name: PresetName) {
  return parseConfig(presetConfig(name), name);
}

// The counts of the published models, and bytes of KV cache per token in bf16.
it.each([
  ["ernie-4.5-0.3b", true, 360_748_032, 360_748_032, 18_432],
  ["ernie-4.5-21b-a3b", true, 21_825_437_888, 3_352_150_208, 57_344],
  ["ernie-4.5-300b-a47b", false, 299_484_163_264, 47_926_586_560, 221_184],
] as const)("%s", (name, tied, parameters, active, kv) => {
  const { config: model, warnings } = preset(name);
  expect(warnings).toEqual([]);
  expect(model.tied).toBe(tied);
  const count = countModel(model);
  expect([count.parameters, count.activeParameters, kvBytesPerToken(model)]).toEqual([parameters, active, kv]);
  expect(count.parts.reduce((sum, part) => sum + part.parameters, 0)).toBe(parameters);
});

it("counts the 300B as if it were tied", () => {
  const count = countModel(preset("ernie-4.5-300b-a47b").config, true);
  expect([count.parameters, count.activeParameters]).toEqual([298_636_913_856, 47_079_337_152]);
});

it.each(GOLDENS)("follows the formulae for %s", (name) => {
  const { hiddenSize: h, heads, kvHeads, headDim, intermediateSize: i, layers, vocabSize: v, moe, useBias, tied } = config(name);
  const attention = h * (heads + 2 * kvHeads) * headDim + heads * headDim * h + (useBias ? (heads + 2 * kvHeads) * headDim + h : 0);
  const dense = 3 * h * i + (useBias ? 2 * i + h : 0);
  const sparse = moe ? 3 * h * moe.intermediateSize * (moe.experts + moe.sharedExperts) + moe.experts * h + moe.experts : 0;
  const ffn = Array.from({ length: layers }, (_, l) => (moe?.layers[l] ? sparse : dense)).reduce((a, b) => a + b, 0);
  expect(countModel(config(name)).parameters).toBe(layers * (attention + 2 * h) + ffn + h + v * h * (tied ? 1 : 2));
});

it("says what fits beside the weights", () => {
  const { config: model } = preset("ernie-4.5-0.3b");
  const { bytes } = countModel(model);
  expect(tokensThatFit(model, bytes + 18_432 * 100 + 5)).toBe(100);
  expect(tokensThatFit(model, bytes + 18_432 * 100, { dtype: "f32" })).toBe(50);
  expect(tokensThatFit(model, bytes + 18_432 * 100, { reserve: 18_432 })).toBe(99);
  expect(tokensThatFit(model, 1000)).toBe(0);
});
