/**
 * Who wrote a config.json, and what a missing field means then. Hugging Face's classes and the original ones have different defaults for some fields.
 */

import type { Fields } from "./fields.js";

/** Which orientation of matrices the file says its weights have; null when it doesn't say. */
export type FileStyle = "pt" | "paddle" | null;

/**
 * Who wrote the file. FastDeploy's rule: `torch_dtype` means PyTorch layout, `dtype` Paddle layout, unless transformers (which renamed its own key to
 * `dtype` in 4.56) signed the file. The ancestors' types are the original classes' too.
 */
export function fileStyle(fields: Fields): FileStyle {
  if (fields.has("torch_dtype") || fields.has("transformers_version")) return "pt";
  if (fields.has("dtype") || fields.has("paddleformers_version") || fields.has("paddlenlp_version")) return "paddle";
  return null;
}

/** A field whose default differs between Hugging Face's classes and the original ones. */
export function disputed(fields: Fields, style: FileStyle, key: string, value: number | undefined, hf: number, original: number): number {
  if (value !== undefined) return value;
  if (style !== "paddle") return hf;
  throw fields.missing(
    key,
    "a value, since the defaults for it differ",
    `add "${key}": ${hf}, as released models have (the original class means ${original})`,
  );
}
