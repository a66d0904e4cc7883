/**
 * ModelConfig and weights -> the graph of one program, at level `model`: embedding, decoder layers, final norm, head. The blocks are in attention.ts and
 * ffn.ts. Every op says here what it is rounded to; nothing below rounds anything else.
 *
 *     h = embed(ids);  for each layer: h += attention(norm(h));  h += ffn(norm(h));  logits = norm(h) . head^T
 *
 * The residual stream is f32. With bf16 activations what a matmul or the KV cache reads is rounded to bf16, once; results of matmuls are f32.
 */

import { bug } from "../diagnostics.js";
import { Builder, type Graph, type Value } from "../ir/graph.js";
import { type DType, kvCache, type SymbolBounds, sym, tensor } from "../ir/types.js";
import { attentionBlock } from "./attention.js";
import type { ModelConfig } from "./config.js";
import { type Context, fromConfig, fromWeight, rounded } from "./context.js";
import { ffnBlock } from "./ffn.js";
import { WeightEmitter, type WeightSet } from "./weight-set.js";

/**
 * prefill: any number of tokens of several sequences; logits of the last row of each. decode: one token a sequence, so T is S.
 * score: logits of every row. trace: score, with hidden states and router tensors.
 */
export const PROGRAM_KINDS = ["prefill", "decode", "score", "trace"] as const;
export type ProgramKind = (typeof PROGRAM_KINDS)[number];

export interface ProgramOptions {
  readonly kind: ProgramKind;
  readonly activations: "bf16" | "f32";
  /** What q, k and v of a model with experts read (attention.ts); without it f32. */
  readonly attentionInput?: "bf16" | "f32" | undefined;
  /** Of T, S and C in this program. */
  readonly bounds: SymbolBounds;
}

export function buildProgram(
  config: ModelConfig,
  weights: WeightSet,
  { kind, activations, attentionInput, bounds }: ProgramOptions,
): Graph {
  for (const symbol of ["T", "S", "C"] as const) {
    if (!bounds[symbol]) throw bug(`no bounds for ${symbol} in program ${kind}`);
  }
  const b = new Builder(kind, bounds);
  const [T, S, C] = [sym("T"), sym("S"), sym("C")];
  // The order of the parameters is part of the contract with the plan.
  const ids = b.param("ids", tensor("i32", [T]));
  const positions = b.param("positions", tensor("i32", [T, 3]));
  const slots = b.param("slots", tensor("i32", [T]));
  b.param("kinds", tensor("i32", [T]));
  const queryStart = b.param("query_start", tensor("i32", [sym("S", 1, 1)]));
  const contextLengths = b.param("context", tensor("i32", [S]));
  const blockTable = b.param("block_table", tensor("i32", [S, C]));
  const lastRows = b.param("last_rows", tensor("i32", [S]));
  const caches = Array.from({ length: config.layers }, (_, l) => b.param(`kv${l}`, kvCache(activations, config.kvHeads, config.headDim)));

  const traced: [string, Value][] = [];
  const trace = (name: string, value: Value): void => {
    if (kind === "trace") traced.push([name, value]);
  };
  const emitter = new WeightEmitter(b, weights);
  const context: Context = {
    b,
    config,
    weights: emitter,
    act: activations,
    attentionInput: attentionInput ?? (config.moe ? "f32" : activations),
    positions,
    slots,
    queryStart,
    contextLengths,
    blockTable,
    trace,
  };

  const table = emitter.get("model.embed_tokens.weight");
  let h = b.at(fromWeight("model.embed_tokens.weight")).value("embedding", { table, ids }, { dtype: "f32" });
  const kept = caches.map((cache, layer) => {
    const attended = attentionBlock(context, layer, h, cache);
    h = ffnBlock(context, layer, attended.h);
    trace(`hidden.${layer}`, h);
    return attended.cache;
  });
  const logits = head(context, h, table, kind === "trace");
  const wanted = kind === "prefill" ? b.at(fromConfig("vocab_size")).value("gather_rows", { x: logits, rows: lastRows }, {}) : logits;
  b.returns("logits", wanted);
  if (kind === "prefill" || kind === "decode") b.returns("next_ids", b.value("argmax", { x: wanted }, {}));
  for (const [name, value] of traced) b.returns(name, value);
  for (const [layer, cache] of kept.entries()) b.returns(`kv${layer}`, cache);
  return b.finish();
}

function head({ b, config, weights, act, trace }: Context, h: Value, table: Value, traces: boolean): Value {
  const weight = weights.get("model.norm.weight");
  b.at(fromWeight("model.norm.weight"));
  const norm = (dtype: DType): Value => b.value("rms_norm", { x: h, weight }, { eps: config.normEps, dtype });
  let x: Value;
  if (traces) {
    // A trace shows the norm in f32, and the head reads it rounded as it does elsewhere.
    const full = norm("f32");
    trace("final_norm", full);
    x = rounded(b, full, act);
  } else x = norm(act);
  const matrix = weights.set.tied ? table : weights.get("lm_head.weight");
  const bias = weights.maybe("lm_head.bias");
  b.at(fromWeight(weights.set.tied ? "model.embed_tokens.weight" : "lm_head.weight"));
  return b.value("linear", bias ? { x, weight: matrix, bias } : { x, weight: matrix }, { dtype: "f32" });
}
