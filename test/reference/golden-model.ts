/** A golden case, loaded: programs of its checkpoint, its weights for the reference, and what transformers computed. */

import { fileURLToPath } from "node:url";
import { readConfig } from "../../src/frontend/config.js";
import { buildProgram, type ProgramKind } from "../../src/frontend/model.js";
import { resolveWeights } from "../../src/frontend/resolve-weights.js";
import type { Graph } from "../../src/ir/graph.js";
import { loadWeights } from "../../src/reference/checkpoint-weights.js";
import type { Environment } from "../../src/reference/meaning.js";
import { openCheckpoint } from "../../src/weights/checkpoint.js";
import { readTensor } from "../../src/weights/read-tensor.js";
import { readSafetensorsHeader } from "../../src/weights/safetensors.js";

export const GOLDEN_NAMES = ["dense", "dense-bias-untied", "moe", "moe-no-shared-untied"] as const;
export type GoldenName = (typeof GOLDEN_NAMES)[number];

export interface GoldenModel {
  readonly program: (kind: ProgramKind, activations?: "f32" | "bf16") => Graph;
  readonly environment: Environment;
  /** By the names of the golden file. */
  readonly golden: ReadonlyMap<string, ArrayLike<number>>;
}

export async function loadGolden(name: GoldenName): Promise<GoldenModel> {
  const folder = fileURLToPath(new URL(`../goldens/${name}/`, import.meta.url));
  const checkpoint = await openCheckpoint(folder);
  const { config } = await readConfig(`${folder}config.json`);
  const weights = resolveWeights(config, checkpoint);
  const bounds = { T: { min: 1, max: 64 }, S: { min: 1, max: 8 }, C: { min: 1, max: 64 } };
  const golden = new Map<string, ArrayLike<number>>();
  const file = await readSafetensorsHeader(`${folder}golden.safetensors`);
  for (const tensor of file.tensors.keys()) {
    const { data } = await readTensor(file, tensor);
    golden.set(tensor, data instanceof Float32Array ? data : Array.from(data, Number));
  }
  return {
    program: (kind, activations = "f32") => buildProgram(config, weights, { kind, activations, bounds }),
    environment: { weights: await loadWeights(checkpoint), blockSize: 4 },
    golden,
  };
}

/** Squared error over squared size. */
export function nmse(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  let error = 0;
  let size = 0;
  for (let i = 0; i < expected.length; i++) {
    error += ((found[i] ?? Number.NaN) - (expected[i] as number)) ** 2;
    size += (expected[i] as number) ** 2;
  }
  return size === 0 ? error : error / size;
}
