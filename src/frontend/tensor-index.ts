/** The tensors of a checkpoint as the frontend sees them: names, shapes, element types, and which of the family's layouts the names are of. */

import { Diagnostic } from "../diagnostics.js";
import { quoteName } from "../weights/tensor-type.js";
import { PREFIXES, type Prefix } from "./spellings.js";

/** What is needed of a checkpoint (src/weights/checkpoint.ts has it all). */
export interface TensorIndex {
  readonly folder: string;
  readonly files: readonly { readonly path: string }[];
  readonly tensors: ReadonlyMap<string, TensorInfo>;
}

export interface TensorInfo {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Into `files`. */
  readonly file: number;
}

/** File and name, for messages. */
export function tensorPlace({ folder, files, tensors }: TensorIndex, name: string): string {
  const info = tensors.get(name);
  const file = info && files[info.file]?.path;
  return `${file ?? folder}: ${quoteName(name)}`;
}

/** By the embedding, which every checkpoint has under one name. */
export function findPrefix({ folder, tensors }: TensorIndex): Prefix {
  const found = PREFIXES.filter((prefix) => tensors.has(`${prefix}embed_tokens.weight`));
  const [prefix, other] = found;
  if (prefix === undefined) {
    const [first] = tensors.keys();
    throw new Diagnostic({
      code: "tensor-missing",
      message: `found ${tensors.size} tensors${first === undefined ? "" : `, the first being ${quoteName(first)}`}, expected "model.embed_tokens.weight" or "ernie.embed_tokens.weight" among them`,
      place: folder,
      hint: "config.json and the weights may be of different models",
    });
  }
  if (other !== undefined) {
    throw new Diagnostic({
      code: "tensor-duplicate",
      message: `found "${prefix}embed_tokens.weight" and "${other}embed_tokens.weight", expected one of them`,
      place: folder,
      hint: "the weights may be mixed of two conversions: fetch them again",
    });
  }
  return prefix;
}
