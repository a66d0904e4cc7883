/**
 * Which model of the family a config.json describes: by `architectures` and `model_type`, in every spelling that exists. Refuses what is not of the
 * family, and says "not yet supported" to what is but has no frontend. Reads no sizes.
 */

import { Diagnostic } from "../diagnostics.js";
import type { Fields } from "./fields.js";
import { describeJson, type Json } from "./json.js";
import { nearest } from "./nearest.js";

export type ModelKind = "dense" | "moe";

/** Whatever spelling a file has, reports and bindings say one of these. */
export const ARCHITECTURE_NAMES = { dense: "Ernie4_5ForCausalLM", moe: "Ernie4_5_MoeForCausalLM" } as const satisfies {
  readonly [K in ModelKind]: string;
};

type Found = ModelKind | "ancestor" | "vl";

/**
 * `ernie` and `ernie_moe` are what the classes were called before release: the fields say which kind it is. Both VL types are the two
 * spellings of one model; `..._text` and `..._vision` are their nested parts.
 */
const MODEL_TYPES: ReadonlyMap<string, Found> = new Map<string, Found>([
  ["ernie4_5", "dense"],
  ["ernie4_5_moe", "moe"],
  ["ernie", "ancestor"],
  ["ernie_moe", "ancestor"],
  ["ernie4_5_moe_vl", "vl"],
  ["ernie4_5_vl_moe", "vl"],
  ["ernie4_5_vl", "vl"],
  ["ernie4_5_vl_moe_text", "vl"],
  ["ernie4_5_vl_moe_vision", "vl"],
]);

/** Lower case, without `_`: files differ in both (`Ernie4_5_ForCausalLM`, `Ernie4_5ForCausalLM`). */
const ARCHITECTURES: ReadonlyMap<string, Found> = new Map<string, Found>([
  ["ernie45forcausallm", "dense"],
  ["ernie45moeforcausallm", "moe"],
  ["ernieforcausallm", "ancestor"],
  ["erniemoeforcausallm", "ancestor"],
  ["ernie45vlmoeforconditionalgeneration", "vl"],
  ["ernie45moevlforconditionalgeneration", "vl"],
  ["ernie45vlforconditionalgeneration", "vl"],
]);

export function detectKind(fields: Fields): ModelKind {
  refuseVision(fields);
  const type = readModelType(fields);
  const architecture = readArchitecture(fields);
  if (type === undefined && architecture === undefined) {
    throw fields.missing("model_type", "ernie4_5 or ernie4_5_moe", "this does not look like the config.json of an ERNIE 4.5 model");
  }
  const byFields = hasExperts(fields) ? "moe" : "dense";
  if (byFields === "moe" && (type === "dense" || architecture === "dense")) {
    throw fields.refuse("config-kind-conflict", "moe_num_experts", "none in a dense model");
  }
  const stated = [type, architecture].filter((kind) => kind === "dense" || kind === "moe");
  if (new Set(stated).size > 1) {
    throw new Diagnostic({
      code: "config-kind-conflict",
      message: `found model_type ${describeJson(fields.get("model_type"))} with architectures ${describeJson(fields.get("architectures"))}, expected both dense or both MoE`,
      place: fields.at("architectures"),
      hint: "take the config.json that came with the weights",
    });
  }
  return stated[0] ?? byFields;
}

function readModelType(fields: Fields): Found | undefined {
  const name = fields.text("model_type");
  if (name === undefined) return undefined;
  const found = MODEL_TYPES.get(name);
  if (found === "ancestor" && (fields.has("type_vocab_size") || fields.has("task_type_vocab_size"))) {
    throw new Diagnostic({
      code: "config-not-ernie45",
      message: "found an ERNIE encoder of the BERT kind, expected an ERNIE 4.5 model",
      place: fields.at("model_type"),
      hint: "only the causal language models of the ERNIE 4.5 family can be compiled",
    });
  }
  if (found !== undefined) return found;
  const meant = nearest(name, ["ernie4_5", "ernie4_5_moe"]);
  throw new Diagnostic({
    code: "config-unknown-model-type",
    message: `found ${describeJson(name)}, expected ernie4_5 or ernie4_5_moe`,
    place: fields.at("model_type"),
    hint: meant === undefined ? "only models of the ERNIE 4.5 family can be compiled" : `did you mean ${meant}?`,
  });
}

function readArchitecture(fields: Fields): Found | undefined {
  const names = fields.texts("architectures") ?? [];
  if (names.length === 0) return undefined;
  if (names.length > 1) throw fields.refuse("config-unknown-architecture", "architectures", "a list of one");
  const found = ARCHITECTURES.get((names[0] as string).toLowerCase().replaceAll("_", ""));
  if (found !== undefined) return found;
  throw fields.refuse(
    "config-unknown-architecture",
    "architectures",
    "Ernie4_5ForCausalLM or Ernie4_5_MoeForCausalLM",
    "only the causal language models of the ERNIE 4.5 family can be compiled",
  );
}

function hasExperts(fields: Fields): boolean {
  const experts = fields.get("moe_num_experts");
  return experts !== undefined && experts !== 0;
}

/** Also recognises a VL file by its fields: the flat form has all of the text model's keys beside those of the vision part. */
function refuseVision(fields: Fields): void {
  const names = fields.get("architectures");
  const architectures = Array.isArray(names) ? (names as readonly Json[]) : [];
  const signs = [
    MODEL_TYPES.get(String(fields.get("model_type"))) === "vl" ? "model_type" : "",
    architectures.some((name) => typeof name === "string" && ARCHITECTURES.get(name.toLowerCase().replaceAll("_", "")) === "vl")
      ? "architectures"
      : "",
    ...["vision_config", "text_config", "im_patch_id"].map((key) => (fields.has(key) ? key : "")),
    fields.get("rope_3d") === true ? "rope_3d" : "",
    ...["moe_num_experts", "moe_intermediate_size"].map((key) => {
      const value = fields.get(key);
      return Array.isArray(value) && (value as readonly Json[]).length > 1 ? key : "";
    }),
  ].filter((key) => key !== "");
  const key = signs[0];
  if (key === undefined) return;
  throw new Diagnostic({
    code: "config-vl-unsupported",
    kind: "unsupported",
    message: `found ${describeJson(fields.get(key))}, a vision-language model, expected a text model`,
    place: fields.at(key),
    hint: "the text models are supported: ERNIE-4.5-0.3B, ERNIE-4.5-21B-A3B, ERNIE-4.5-300B-A47B",
  });
}
