/** Weights of a small checkpoint for the reference. Everything is read at once: this is for goldens and mini models, not for 21B. */

import { bug } from "../diagnostics.js";
import type { TensorType } from "../ir/types.js";
import type { Checkpoint } from "../weights/checkpoint.js";
import { readFloats } from "../weights/read-tensor.js";
import { type RefTensor, refTensor } from "./tensor.js";

export async function loadWeights(checkpoint: Checkpoint): Promise<(name: string, type: TensorType) => RefTensor> {
  const loaded = new Map<string, Float32Array>();
  for (const [name, { file }] of checkpoint.tensors) {
    const source = checkpoint.files[file];
    if (!source) throw bug(`the checkpoint has no file ${file}`);
    loaded.set(name, (await readFloats(source, name)).data);
  }
  const made = new Map<string, RefTensor>();
  return (name, { dtype, shape }) => {
    const key = JSON.stringify([name, dtype, shape]);
    const known = made.get(key);
    if (known) return known;
    const data = loaded.get(name);
    if (!data) throw bug(`the graph reads a weight ${JSON.stringify(name)} that the checkpoint lacks`);
    const sizes = shape.map((dim) => {
      if (typeof dim !== "number") throw bug("a weight has fixed sizes");
      return dim;
    });
    const tensor = refTensor(dtype, sizes, data);
    made.set(key, tensor);
    return tensor;
  };
}
