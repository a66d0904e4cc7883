/** What tests of the passes after fusion share: a target, the passes with it, and random small models that go through all of them. */

import type { ModelConfig } from "../../src/frontend/config.js";
import { buildProgram, type ProgramKind } from "../../src/frontend/model.js";
import { declareWeights } from "../../src/frontend/weight-set.js";
import type { Graph } from "../../src/ir/graph.js";
import { kvCache } from "../../src/ir/types.js";
import type { KernelTarget } from "../../src/kernels/kernel-def.js";
import { cloneBuckets } from "../../src/passes/lower/clone-buckets.js";
import { selectKernels } from "../../src/passes/lower/select-kernels.js";
import { selectLayouts } from "../../src/passes/lower/select-layouts.js";
import { FUSION_PASSES } from "../../src/passes/pipeline.js";
import { kvLayerBytes, planMemory } from "../../src/passes/plan/plan-memory.js";
import { planWeights, type WeightPlan } from "../../src/passes/plan/plan-weights.js";
import { runPrograms } from "../../src/passes/run.js";
import { config } from "../frontend/support.js";
import type { Random } from "./soup.js";

export const LIMITS = { maxBatch: 5, prefillChunk: 32 };
const BLOCK_SIZE = 32;

export const TARGET: KernelTarget = { arch: "x86-64-v4-bf16", kvBlockSize: BLOCK_SIZE, kvBlockBytes: 4096, maxContext: 128 };

/** By name, in order. */
export function loweringPasses(target = TARGET, onPlan: (plan: WeightPlan) => void = () => undefined) {
  return [
    cloneBuckets(LIMITS),
    selectLayouts({ target }),
    selectKernels({ target }),
    planWeights(onPlan),
    planMemory({ kvBlockSize: target.kvBlockSize }),
  ] as const;
}

export interface RandomModel {
  readonly config: ModelConfig;
  readonly activations: "f32" | "bf16";
  readonly kind: ProgramKind;
  /** As the frontend made it. */
  readonly graph: Graph;
  readonly target: KernelTarget;
}

/** A model of one or two layers, tiny in every size that kernels leave open. */
export function randomModel(random: Random): RandomModel {
  const [layers, kvHeads] = [random.int(1, 2), random.int(1, 2)];
  const sizes = {
    num_hidden_layers: layers,
    hidden_size: 16 * random.int(1, 3),
    intermediate_size: 8 * random.int(1, 5),
    num_key_value_heads: kvHeads,
    num_attention_heads: kvHeads * random.int(1, 3),
    head_dim: 16,
    vocab_size: random.int(8, 40),
    use_bias: random.chance(0.3),
    tie_word_embeddings: random.chance(0.5),
  };
  const experts = {
    moe_num_experts: random.int(2, 5),
    moe_k: random.int(1, 2),
    moe_intermediate_size: 8 * random.int(1, 3),
    moe_num_shared_experts: random.int(0, 1),
    moe_layer_start_index: random.int(0, layers - 1),
    moe_layer_end_index: undefined,
    moe_layer_interval: 1,
  };
  const model = random.chance(0.5) ? config("dense", sizes) : config("moe", { ...sizes, ...experts });
  const activations = random.pick(["f32", "bf16"] as const);
  const kind = random.pick<ProgramKind>(["prefill", "decode", "score", "trace"]);
  const bounds = { T: { min: 1, max: 32 }, S: { min: 1, max: 5 }, C: { min: 1, max: 4 } };
  const layer = kvLayerBytes(kvCache(activations, model.kvHeads, model.headDim), BLOCK_SIZE);
  return {
    config: model,
    activations,
    kind,
    graph: buildProgram(model, declareWeights(model), { kind, activations, bounds }),
    target: { ...TARGET, kvBlockBytes: layer * model.layers },
  };
}

/** Names of all passes that can be left out. */
export const FUSIONS: readonly string[] = [...new Set(FUSION_PASSES.map(({ name }) => name))];

/** A model's program after the fusions, without those named, and after each pass of the lowering. */
export interface Lowered {
  readonly fused: Graph;
  /** By name of the pass: one graph a bucket. */
  readonly after: ReadonlyMap<string, readonly Graph[]>;
  readonly weights: WeightPlan;
}

export function lowerRandom({ graph, target }: RandomModel, disable: readonly string[] = []): Lowered {
  const fused = runPrograms([graph], FUSION_PASSES, { disable }).graphs[0] as Graph;
  let weights: WeightPlan = { weights: [], bytes: 0 };
  const passes = loweringPasses(target, (plan) => {
    weights = plan;
  });
  const after = new Map<string, readonly Graph[]>();
  runPrograms([fused], passes, { onPass: ({ pass }, graphs) => after.set(pass, graphs) });
  return { fused, after, weights };
}
