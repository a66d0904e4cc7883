/** The FFN half of a decoder layer: norm, a SwiGLU MLP or a mixture of them, residual. */

import type { Value } from "../ir/graph.js";
import type { MoeConfig } from "./config-moe.js";
import { type Context, fromConfig, fromWeight, linear, rounded } from "./context.js";
import { layerPrefix } from "./weights.js";

/** h [T, H] f32 -> the residual stream after the FFN. */
export function ffnBlock(context: Context, layer: number, h: Value): Value {
  const { b, config, weights, act } = context;
  const name = `${layerPrefix(layer)}post_attention_layernorm.weight`;
  const weight = weights.get(name);
  const moe = config.moe?.layers[layer] ? config.moe : null;
  b.at(fromWeight(name));
  // The router reads the norm in f32: rounding would flip close choices. The experts read it as every matmul does.
  const n = b.value("rms_norm", { x: h, weight }, { eps: config.normEps, dtype: moe ? "f32" : act });
  const out = moe ? mixture(context, layer, moe, n) : swigluMlp(context, `${layerPrefix(layer)}mlp`, n);
  return b.value("add", { a: h, b: out }, {});
}

/** (silu(x . gate^T) * (x . up^T)) . down^T */
function swigluMlp(context: Context, name: string, x: Value): Value {
  const gate = linear(context, `${name}.gate_proj`, x);
  const up = linear(context, `${name}.up_proj`, x);
  const act = context.b.value("swiglu", { gate, up }, { dtype: context.act });
  return linear(context, `${name}.down_proj`, act);
}

/** sum over the chosen experts of w_e * expert_e(x), plus the shared experts, which are one MLP without a gate. */
function mixture(context: Context, layer: number, moe: MoeConfig, n: Value): Value {
  const { b, weights, act, trace } = context;
  const prefix = `${layerPrefix(layer)}mlp`;
  const x = rounded(b, n, act);
  const gate = weights.get(`${prefix}.gate.weight`);
  const correction = weights.maybe(`${prefix}.moe_statics.e_score_correction_bias`);
  const router = b
    .at(fromWeight(`${prefix}.gate.weight`))
    .node("moe_router", correction ? { x: n, gate, correction } : { x: n, gate }, { k: moe.k, norm_min: moe.normMin });
  const [logits, indices, routed] = router.results as readonly [Value, Value, Value];
  trace(`router.${layer}.logits`, logits);
  trace(`router.${layer}.indices`, indices);
  trace(`router.${layer}.weights`, routed);

  const expert = (name: string, rows: Value): Value => {
    const weightName = `${prefix}.experts.*.${name}.weight`;
    const weight = weights.get(weightName);
    return b.at(fromWeight(weightName)).value("expert_linear", { x: rows, indices, weight }, { dtype: "f32" });
  };
  const gated = expert("gate_proj", x);
  const up = expert("up_proj", x);
  const hidden = b.value("swiglu", { gate: gated, up }, { dtype: act });
  const rows = expert("down_proj", hidden);
  const sum = b.at(fromConfig("moe_k", layer)).value("moe_combine", { rows, indices, weights: routed }, {});
  if (moe.sharedExperts === 0) return sum;
  const shared = swigluMlp(context, `${prefix}.shared_experts`, x);
  return b.at(fromConfig("moe_num_shared_experts", layer)).value("add", { a: sum, b: shared }, {});
}
