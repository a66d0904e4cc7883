/** The mixture-of-experts part of a config.json: which layers, how many experts, how the router chooses. */

import { Diagnostic } from "../diagnostics.js";
import { disputed, type FileStyle } from "./config-style.js";
import type { Fields } from "./fields.js";

export interface MoeConfig {
  readonly experts: number;
  /** Experts chosen for each token. */
  readonly k: number;
  /** Width of one expert. */
  readonly intermediateSize: number;
  /** They are one MLP of width `sharedExperts * intermediateSize`; 0: there is none. */
  readonly sharedExperts: number;
  readonly normMin: number;
  /** The router has a correction bias that shifts the choice of experts. */
  readonly correction: boolean;
  /** One entry a layer: true where the FFN is a mixture of experts. */
  readonly layers: readonly boolean[];
}

const LIMITS = {
  experts: { min: 1, max: 1024 },
  width: { min: 1, max: 2 ** 20 },
  shared: { min: 0, max: 64 },
} as const;

/** Each is a node of the graph; the largest model of the family has 3264. */
const MAX_EXPERTS = 2 ** 16;

export function readMoe(fields: Fields, style: FileStyle, layers: number): MoeConfig {
  refuseOtherRouting(fields);
  const experts = fields.intOrOnly("moe_num_experts", LIMITS.experts);
  if (experts === undefined) throw fields.missing("moe_num_experts", "the number of experts");
  if (layers * experts > MAX_EXPERTS) {
    throw fields.refuse("config-out-of-range", "moe_num_experts", `at most ${MAX_EXPERTS} experts in all layers together`);
  }
  const intermediateSize = fields.intOrOnly("moe_intermediate_size", LIMITS.width);
  if (intermediateSize === undefined) throw fields.missing("moe_intermediate_size", "the width of an expert");
  const k = fields.requiredInt("moe_k", { min: 1, max: experts });
  if (!fields.states("moe_num_shared_experts")) {
    throw fields.missing("moe_num_shared_experts", "a number", "write 0 if the model has no shared experts");
  }
  return {
    experts,
    k,
    intermediateSize,
    // null is how some files write 0.
    sharedExperts: fields.intOrOnly("moe_num_shared_experts", LIMITS.shared) ?? 0,
    normMin: fields.number("moe_norm_min", { min: 0, max: 1 }) ?? 1e-12,
    correction: fields.boolean("moe_use_aux_free") ?? true,
    layers: readLayers(fields, style, layers),
  };
}

/** What every release does; other values exist in the original classes and would give other numbers. */
function refuseOtherRouting(fields: Fields): void {
  const refuse = (key: string, expected: string): never => {
    throw new Diagnostic({
      code: "config-unsupported",
      kind: "unsupported",
      message: fields.refuse("", key, expected).summary,
      place: fields.at(key),
      hint: "no release of the family has it: take the config.json that came with the weights",
    });
  };
  if ((fields.text("moe_gate_act") ?? "softmax") !== "softmax") refuse("moe_gate_act", "softmax");
  if (fields.boolean("moe_norm_gate_logits") === false) refuse("moe_norm_gate_logits", "true");
  if (fields.boolean("moe_group_experts") === true) refuse("moe_group_experts", "false");
}

/** Layer l is sparse iff (l + 1) mod interval == 0 and start <= l <= end; or `mlp_layer_types` says it layer by layer. */
function readLayers(fields: Fields, style: FileStyle, layers: number): readonly boolean[] {
  const listed = readLayerTypes(fields, layers);
  const ruled = ["moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval"].some((key) => fields.has(key));
  if (listed && !ruled) return listed;
  const start = disputed(
    fields,
    style,
    "moe_layer_start_index",
    fields.intOrOnly("moe_layer_start_index", { min: 0, max: layers - 1 }),
    1,
    0,
  );
  // -1 and null mean the last layer; some files name one beyond it.
  const stated = fields.intOrOnly("moe_layer_end_index", { min: -1, max: 4096 }) ?? -1;
  const end = stated === -1 ? layers - 1 : Math.min(stated, layers - 1);
  const interval = disputed(fields, style, "moe_layer_interval", fields.int("moe_layer_interval", { min: 1, max: layers }), 1, 2);
  const sparse = Array.from({ length: layers }, (_, l) => (l + 1) % interval === 0 && start <= l && l <= end);
  if (!sparse.includes(true)) {
    throw new Diagnostic({
      code: "config-no-moe-layer",
      message: `found no layer from ${start} to ${end} at interval ${interval}, expected at least one of ${layers} layers to be a mixture of experts`,
      place: fields.at("moe_layer_end_index"),
      hint: "take the config.json that came with the weights",
    });
  }
  if (listed?.some((value, l) => value !== sparse[l])) {
    throw new Diagnostic({
      code: "config-moe-layers-conflict",
      message:
        "found mlp_layer_types that say something else, expected what moe_layer_start_index, moe_layer_end_index and moe_layer_interval say",
      place: fields.at("mlp_layer_types"),
      hint: "leave one of the two out",
    });
  }
  return sparse;
}

function readLayerTypes(fields: Fields, layers: number): readonly boolean[] | undefined {
  const types = fields.texts("mlp_layer_types");
  if (types === undefined) return undefined;
  if (types.length !== layers || types.some((type) => type !== "dense" && type !== "sparse")) {
    throw fields.refuse("config-out-of-range", "mlp_layer_types", `${layers} entries, each "dense" or "sparse"`);
  }
  if (!types.includes("sparse")) throw fields.refuse("config-no-moe-layer", "mlp_layer_types", "at least one sparse layer");
  return types.map((type) => type === "sparse");
}
