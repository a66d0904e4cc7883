/** The attention half of a decoder layer: norm, q, k and v, RoPE, the KV cache, attention, output projection, residual. */

import type { Value } from "../ir/graph.js";
import { type Context, fromConfig, fromWeight, linear, rounded } from "./context.js";
import { layerPrefix } from "./weights.js";

/** h [T, H] f32 -> the residual stream after attention, and the cache with this step's keys and values. */
export function attentionBlock(context: Context, layer: number, h: Value, cache: Value): { readonly h: Value; readonly cache: Value } {
  const { b, config, weights, act, attentionInput: dtype, positions } = context;
  const { heads, kvHeads, headDim } = config;
  const prefix = layerPrefix(layer);
  const norm = `${prefix}input_layernorm.weight`;
  const weight = weights.get(norm);
  // Rounding what q, k and v read is the largest error of all: attention's exponentials amplify it. Routers turn it into other experts, so with
  // experts these projections read f32; they are a small part of such a model (test/e2e/goldens-bf16.test.ts holds the choices).
  const x = b.at(fromWeight(norm)).value("rms_norm", { x: h, weight }, { eps: config.normEps, dtype });

  const rotated = (name: string, count: number): Value => {
    const projected = linear(context, `${prefix}self_attn.${name}`, x);
    // Text has one position a token: all pairs take the t column.
    const attrs = { heads: count, head_dim: headDim, theta: config.ropeTheta, sections: [0, 0, headDim / 2], dtype: act };
    return b.at(fromConfig("rope_theta", layer)).value("rope", { x: projected, positions }, attrs);
  };
  const q = rotated("q_proj", heads);
  const k = rotated("k_proj", kvHeads);
  const projectedV = linear(context, `${prefix}self_attn.v_proj`, x);
  b.at(fromConfig("num_key_value_heads", layer));
  const v = rounded(b, projectedV, act);
  const kept = b.value("kv_append", { cache, k, v, slots: context.slots }, {});

  const attended = b
    .at(fromConfig("num_attention_heads", layer))
    .value(
      "attention",
      { q, cache: kept, query_start: context.queryStart, context: context.contextLengths, block_table: context.blockTable },
      { heads, scale: headDim ** -0.5, dtype: act },
    );
  const out = linear(context, `${prefix}self_attn.o_proj`, attended);
  return { h: b.value("add", { a: h, b: out }, {}), cache: kept };
}
