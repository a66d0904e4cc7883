/** Configs and checkpoints without data, for tests of the frontend. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Diagnostic } from "../../src/diagnostics.js";
import { type ModelConfig, type ParsedConfig, parseConfig } from "../../src/frontend/config.js";
import type { JsonObject } from "../../src/frontend/json.js";
import type { TensorIndex, TensorInfo } from "../../src/frontend/tensor-index.js";
import { expertNames } from "../../src/frontend/weight-set.js";
import { listWeights } from "../../src/frontend/weights.js";

export const GOLDENS = ["dense", "dense-bias-untied", "moe", "moe-no-shared-untied"] as const;

export function path(relative: string): string {
  return fileURLToPath(new URL(`../../${relative}`, import.meta.url));
}

export function readJson(relative: string): { [key: string]: unknown } {
  return JSON.parse(readFileSync(path(relative), "utf8")) as { [key: string]: unknown };
}

export function goldenJson(name: string): JsonObject {
  return readJson(`test/goldens/${name}/config.json`) as JsonObject;
}

/** The golden's config with some keys changed; undefined removes one. */
export function changed(name: string, changes: { readonly [key: string]: unknown }): JsonObject {
  const entries = Object.entries({ ...goldenJson(name), ...changes }).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as JsonObject;
}

export function parsed(name: string, changes: { readonly [key: string]: unknown } = {}): ParsedConfig {
  return parseConfig(changed(name, changes), "config.json");
}

export function config(name: string, changes: { readonly [key: string]: unknown } = {}): ModelConfig {
  return parsed(name, changes).config;
}

/** Every tensor that a `-PT` checkpoint of this model has. */
export function ptTensors(model: ModelConfig): Map<string, TensorInfo> {
  const tensors = new Map<string, TensorInfo>();
  for (const { name, shape, dtype } of listWeights(model)) {
    const type = dtype === "f32" ? "F32" : "BF16";
    if (name.includes("*")) {
      for (const expert of expertNames(name, shape[0] as number)) tensors.set(expert, { dtype: type, shape: shape.slice(1), file: 0 });
    } else if (name.endsWith("e_score_correction_bias")) tensors.set(name, { dtype: type, shape: [1, ...shape], file: 0 });
    else tensors.set(name, { dtype: type, shape, file: 0 });
  }
  return tensors;
}

/** The same model in Paddle's form: prefix, fused projections, [in, out]. */
export function paddleTensors(model: ModelConfig): Map<string, TensorInfo> {
  const fused = new Map<string, TensorInfo>();
  for (const [name, info] of ptTensors(model)) {
    const target = name
      .replace(/^model\./, "ernie.")
      .replace(/\.[qkv]_proj\./, ".qkv_proj.")
      .replace(/\.(gate|up)_proj\./, ".up_gate_proj.");
    const before = fused.get(target);
    fused.set(target, {
      ...info,
      shape: before ? [(before.shape[0] as number) + (info.shape[0] as number), ...info.shape.slice(1)] : info.shape,
    });
  }
  for (const [name, info] of fused) {
    const stays = name.includes("embed_tokens") || name.endsWith("e_score_correction_bias");
    if (info.shape.length === 2 && !stays) fused.set(name, { ...info, shape: [...info.shape].reverse() });
  }
  return fused;
}

export function index(tensors: ReadonlyMap<string, TensorInfo>): TensorIndex {
  return { folder: "folder", files: [{ path: "folder/model.safetensors" }], tensors };
}

/** The diagnostic that `run` throws; anything else fails the test. */
export async function refusal(run: () => unknown): Promise<Diagnostic> {
  try {
    await run();
  } catch (error) {
    if (error instanceof Diagnostic) return error;
    throw error;
  }
  throw new Error("expected a Diagnostic, nothing was thrown");
}
