/**
 * Which tensors of a checkpoint may hold a weight. The family's files differ in prefix, in fusing q|k|v and gate|up, and in stacking experts:
 *
 *     PT        model.layers.0.self_attn.q_proj.weight        one tensor each
 *     Paddle    ernie.layers.0.self_attn.qkv_proj.weight      q, then k, then v; up_gate_proj is gate, then up, whatever its name says
 *     in-memory model.layers.1.mlp.experts.gate_up_proj       transformers 5's own form, saved as it is: [experts, 2 * width, hidden]
 *
 * Orientation ([out, in] or [in, out]) is found by shape, in resolve-weights.ts, and is not a matter of names.
 */

import type { ModelConfig } from "./config.js";
import { expertNames } from "./weight-set.js";
import type { WeightSpec } from "./weights.js";

/** `model.` and `ernie.` are the two official layouts; a bare decoder saved by itself has none. */
export const PREFIXES = ["model.", "ernie.", ""] as const;
export type Prefix = (typeof PREFIXES)[number];

/** A tensor of the checkpoint, with the shape that it has in [out, in] order, and the rows of it that are meant. */
export interface TensorRef {
  readonly name: string;
  readonly shape: readonly number[];
  readonly rows?: { readonly start: number; readonly length: number };
}

/** One way to hold a weight: a tensor, or one for each expert. */
export type Spelling =
  | { readonly kind: "one"; readonly ref: TensorRef }
  | { readonly kind: "per_expert"; readonly refs: readonly TensorRef[] };

/** All ways in which `spec` may be held in a checkpoint with this prefix, the usual one first. */
export function spellings(spec: WeightSpec, prefix: Prefix, config: ModelConfig): readonly Spelling[] {
  const name = spec.name.replace(/^model\./, prefix);
  if (name.includes("*")) return expertSpellings(name, spec.shape, config);
  const ways: Spelling[] = [{ kind: "one", ref: { name, shape: spec.shape } }];
  for (const ref of fused(name, spec.shape, config)) ways.push({ kind: "one", ref });
  if (name.endsWith(".mlp.moe_statics.e_score_correction_bias")) {
    ways.push({ kind: "one", ref: { name: name.replace(".mlp.moe_statics.", ".mlp.gate.moe_statics."), shape: spec.shape } });
  }
  return ways;
}

function expertSpellings(pattern: string, shape: readonly number[], config: ModelConfig): readonly Spelling[] {
  const [experts = 0, ...matrix] = shape;
  const names = expertNames(pattern, experts);
  const ways: Spelling[] = [{ kind: "per_expert", refs: names.map((name) => ({ name, shape: matrix })) }];
  for (const { name: fusedPattern, shape: fusedShape, rows } of fused(pattern, matrix, config)) {
    const refs = expertNames(fusedPattern, experts).map((name) => ({ name, shape: fusedShape, ...(rows && { rows }) }));
    ways.push({ kind: "per_expert", refs });
    // Stacked experts are a parameter of the block itself, so their names end there.
    const name = fusedPattern.replace(".*.", ".").replace(/\.weight$/, "");
    ways.push({ kind: "one", ref: { name, shape: [experts, ...fusedShape], ...(rows && { rows }) } });
  }
  if (pattern.includes(".down_proj.")) {
    ways.push({ kind: "one", ref: { name: pattern.replace(".*.", ".").replace(/\.weight$/, ""), shape } });
  }
  return ways;
}

/** The fused tensors that rows of this weight may lie in: of a matrix, or of a bias. */
function fused(name: string, shape: readonly number[], { heads, kvHeads, headDim }: ModelConfig): TensorRef[] {
  const match = /^(.*\.)(q|k|v|gate|up)_proj\.(weight|bias)$/.exec(name);
  if (!match) return [];
  const [, path = "", which, suffix = ""] = match;
  const [length = 0, ...rest] = shape;
  if (which === "gate" || which === "up") {
    return ["up_gate_proj", "gate_up_proj"].map((fusedName) => ({
      name: `${path}${fusedName}.${suffix}`,
      shape: [2 * length, ...rest],
      rows: { start: which === "gate" ? 0 : length, length },
    }));
  }
  const [q, kv] = [heads * headDim, kvHeads * headDim];
  const start = which === "q" ? 0 : which === "k" ? q : q + kv;
  return [{ name: `${path}qkv_proj.${suffix}`, shape: [q + 2 * kv, ...rest], rows: { start, length } }];
}

/** Tensors that a checkpoint may hold and this compiler does not use, each with the reason why that is right. */
export const UNUSED_TENSORS: readonly { readonly pattern: RegExp; readonly reason: string }[] = [
  { pattern: /\brotary_emb\.(inv_freq|cos_cached|sin_cached)$/, reason: "a buffer that follows from rope_theta" },
  {
    pattern: /^(model\.|ernie\.)?mtp_(block|emb_norm|hidden_norm|linear_proj)\.\d+\./,
    reason: "multi-token prediction, which proposes tokens and changes none of the model's logits",
  },
  { pattern: /\bmlp\.(gate\.)?moe_statics\.expert_usage$/, reason: "a statistic of training" },
];
