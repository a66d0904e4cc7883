/**
 * Everything of a model that a compilation starts from: config, weights found or declared, and what it needs to speak. Opens the checkpoint's headers;
 * reads no tensor.
 */

import type { Diagnostic } from "../diagnostics.js";
import { type Checkpoint, openCheckpoint } from "../weights/checkpoint.js";
import { readTextAssets, type TextAssets } from "./generation.js";
import type { CompileRequest } from "./model-json.js";
import { resolveWeights } from "./resolve-weights.js";
import { declareWeights, type WeightSet } from "./weight-set.js";

export interface LoadedModel {
  readonly weights: WeightSet;
  /** null: the weights are synthetic, or there are none and nothing is built. */
  readonly checkpoint: Checkpoint | null;
  /** Tensors of the checkpoint that are not used, with the reason. */
  readonly unused: readonly { readonly name: string; readonly reason: string }[];
  readonly text: TextAssets;
  /** The request's warnings and those found here. */
  readonly warnings: readonly Diagnostic[];
}

export async function loadModel({ source, config, weights: wanted, warnings }: CompileRequest): Promise<LoadedModel> {
  const text = await readTextAssets(source.folder, config);
  if (wanted.kind === "synthetic" || source.folder === null || !source.hasWeights) {
    return { weights: declareWeights(config), checkpoint: null, unused: [], text, warnings: [...warnings, ...text.warnings] };
  }
  const checkpoint = await openCheckpoint(source.folder);
  const found = resolveWeights(config, checkpoint);
  return { weights: found, checkpoint, unused: found.unused, text, warnings: [...warnings, ...found.warnings, ...text.warnings] };
}
