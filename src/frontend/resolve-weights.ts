/**
 * Finds every weight of a model in a checkpoint: which tensor, which way round, which rows. Refuses what is missing, has another shape or element type,
 * or is there and not used, unless a rule in spellings.ts says why that is right. Reads no tensor data.
 */

import { Diagnostic } from "../diagnostics.js";
import { quoteName } from "../weights/tensor-type.js";
import type { ModelConfig } from "./config.js";
import { nearest } from "./nearest.js";
import { type Orientation, orientationOf, SquareRule } from "./orientation.js";
import { type Prefix, type Spelling, spellings, type TensorRef, UNUSED_TENSORS } from "./spellings.js";
import { findPrefix, type TensorIndex, type TensorInfo, tensorPlace } from "./tensor-index.js";
import type { ResolvedWeight, WeightExpr, WeightSet } from "./weight-set.js";
import { listWeights, type WeightSpec } from "./weights.js";

export interface CheckpointWeights extends WeightSet {
  readonly warnings: readonly Diagnostic[];
  /** Tensors that are there and not used, with the reason. */
  readonly unused: readonly { readonly name: string; readonly reason: string }[];
}

export function resolveWeights(config: ModelConfig, index: TensorIndex): CheckpointWeights {
  return new Resolver(config, index).run();
}

class Resolver {
  readonly #prefix: Prefix;
  readonly #used = new Set<string>();
  readonly #exprs = new Map<string, WeightExpr>();
  readonly #warnings: Diagnostic[] = [];
  readonly #square: SquareRule;

  constructor(
    readonly config: ModelConfig,
    readonly index: TensorIndex,
  ) {
    this.#prefix = findPrefix(index);
    this.#square = new SquareRule(this.#prefix, config.style);
  }

  run(): CheckpointWeights {
    const tied = this.#decideTied();
    const specs = listWeights(withCorrection(this.config), tied);
    const chosen = this.#choose(specs);
    for (const { spec, spelling } of chosen) {
      for (const ref of refsOf(spelling)) this.#check(ref, spec);
    }
    const weights = chosen.map(({ spec, spelling }): [string, ResolvedWeight] => [
      spec.name,
      { spec, expr: this.#express(spelling, spec) },
    ]);
    const unused = this.#explainUnused(specs);
    this.#warnAboutRounding(specs);
    this.#warnAboutQkv();
    return { tied, weights: new Map(weights), warnings: this.#warnings, unused };
  }

  /** A head in the checkpoint wins over the config's flag: the flag of the 300B is not sure, and the tensor is what was trained. */
  #decideTied(): boolean {
    const tied = !this.index.tensors.has("lm_head.weight");
    if (tied !== this.config.tied) {
      const [found, said] = tied ? ["no lm_head.weight", "false"] : ["lm_head.weight", "true"];
      this.#warnings.push(
        new Diagnostic({
          code: "weights-tie-conflict",
          message: `found ${found} where the config says tie_word_embeddings ${said}; ${tied ? "the embedding serves as the head" : "that tensor is the head"}`,
          place: tied ? this.index.folder : this.#place("lm_head.weight"),
        }),
      );
    }
    return tied;
  }

  /** Picks for each weight the one spelling that is there. */
  #choose(specs: readonly WeightSpec[]): { spec: WeightSpec; spelling: Spelling }[] {
    const missing: WeightSpec[] = [];
    const chosen: { spec: WeightSpec; spelling: Spelling }[] = [];
    for (const spec of specs) {
      const there = spellings(spec, this.#prefix, this.config).filter((way) =>
        refsOf(way).some(({ name }) => this.index.tensors.has(name)),
      );
      const [spelling, other] = there;
      if (!spelling) {
        if (!isOptional(spec, this.config)) missing.push(spec);
        continue;
      }
      if (other) {
        const [a, b] = [spelling, other].map((way) => refsOf(way).find(({ name }) => this.index.tensors.has(name))?.name ?? "");
        throw new Diagnostic({
          code: "tensor-duplicate",
          message: `found ${quoteName(a as string)} and ${quoteName(b as string)}, which hold the same weight, expected one of them`,
          place: this.#place(b as string),
          hint: "the weights may be mixed of two conversions: fetch them again",
        });
      }
      chosen.push({ spec, spelling });
    }
    if (missing.length > 0) throw this.#missing(missing);
    return chosen;
  }

  #check(ref: TensorRef, spec: WeightSpec): void {
    const info = this.index.tensors.get(ref.name);
    if (!info) throw this.#missing([spec], ref.name);
    this.#used.add(ref.name);
    this.#checkDType(ref.name, info, spec);
    const orientation = orientationOf(info.shape, ref.shape);
    if (orientation === undefined || (orientation === "transposed" && spec.part === "embedding")) {
      const wanted = ref.shape.length === 1 || spec.part === "embedding" ? "" : ` or [${transposed(ref.shape).join(", ")}]`;
      throw new Diagnostic({
        code: "tensor-shape",
        message: `found shape [${info.shape.join(", ")}], expected [${ref.shape.join(", ")}]${wanted}`,
        place: this.#place(ref.name),
        hint: "config.json and the weights may be of different models",
      });
    }
    // Embedding, head and router keep their own order in some files, so they say nothing of the others.
    if (ref.shape.length > 1 && !["embedding", "head", "router"].includes(spec.part)) this.#square.see(orientation, ref.name);
  }

  #checkDType(name: string, { dtype }: TensorInfo, spec: WeightSpec): void {
    // Paddle writes the bits of bf16 as U16: which they are, only the config can say.
    const allowed = ["BF16", "F32", "F16", ...(this.config.dtype === null || this.config.dtype === "bfloat16" ? ["U16"] : [])];
    if (allowed.includes(dtype)) return;
    const hint = dtype === "U16" ? "U16 is read as the bits of bf16 where the config says bfloat16" : "start from the bf16 weights";
    throw new Diagnostic({
      code: "tensor-dtype",
      message: `found element type ${dtype}, expected ${allowed.join(", ")} for a weight of ${spec.part}`,
      place: this.#place(name),
      hint,
    });
  }

  #express(spelling: Spelling, spec: WeightSpec): WeightExpr {
    if (spelling.kind === "one") return this.#expressRef(spelling.ref, spec);
    return { kind: "stack", parts: spelling.refs.map((ref) => this.#expressRef(ref, spec)) };
  }

  #expressRef({ name, shape, rows }: TensorRef, spec: WeightSpec): WeightExpr {
    const whole = this.#exprs.get(name) ?? this.#expressWhole(name, shape, spec);
    this.#exprs.set(name, whole);
    return rows ? { kind: "rows", of: whole, start: rows.start, length: rows.length } : whole;
  }

  #expressWhole(name: string, shape: readonly number[], spec: WeightSpec): WeightExpr {
    const found = (this.index.tensors.get(name) as TensorInfo).shape;
    const orientation = orientationOf(found, shape) as Orientation;
    const turn = orientation === "square" && spec.part !== "embedding" ? this.#square.decide(this.#place(name)) : orientation;
    if (turn !== "transposed") return { kind: "tensor", name, shape };
    return { kind: "transpose", of: { kind: "tensor", name, shape: transposed(shape) } };
  }

  #explainUnused(specs: readonly WeightSpec[]): { name: string; reason: string }[] {
    const unused: { name: string; reason: string }[] = [];
    const unknown: string[] = [];
    for (const name of this.index.tensors.keys()) {
      if (this.#used.has(name)) continue;
      const rule = UNUSED_TENSORS.find(({ pattern }) => pattern.test(name));
      if (rule) unused.push({ name, reason: rule.reason });
      else unknown.push(name);
    }
    const [first] = unknown;
    if (first === undefined) return unused;
    const more = unknown.length > 1 ? ` (and ${unknown.length - 1} more)` : "";
    throw new Diagnostic({
      code: "tensor-unknown",
      message: `found a tensor that this model does not use${more}, expected every tensor to be used`,
      place: this.#place(first),
      hint: this.#hintUnknown(first, specs),
    });
  }

  #hintUnknown(name: string, specs: readonly WeightSpec[]): string {
    const layer = /(?:^|\.)layers\.(\d{1,6})\./.exec(name)?.[1];
    if (layer !== undefined && Number(layer) >= this.config.layers) {
      return `config.json says num_hidden_layers ${this.config.layers}, the weights have a layer ${layer}`;
    }
    if (name.endsWith(".bias") && !this.config.useBias) return "config.json says use_bias false";
    const expected = specs.map(({ name: known }) => known.replace(/^model\./, this.#prefix));
    const meant = nearest(name, expected);
    return meant === undefined ? "config.json and the weights may be of different models" : `did you mean ${meant}?`;
  }

  #missing(specs: readonly WeightSpec[], name?: string): Diagnostic {
    const [first] = specs as readonly [WeightSpec];
    const ways = spellings(first, this.#prefix, this.config).map((way) => refsOf(way)[0]?.name ?? "");
    const wanted = name ?? (ways[0] as string);
    const others = name === undefined && ways.length > 1 ? `, or ${ways.slice(1).join(", ")},` : "";
    const more = specs.length > 1 ? ` (and ${specs.length - 1} more are missing)` : "";
    return new Diagnostic({
      code: "tensor-missing",
      message: `found no tensor ${quoteName(wanted)}${others} expected shape [${first.shape.join(", ")}]${more}`,
      place: this.index.folder,
      hint: first.name.endsWith("e_score_correction_bias")
        ? "if the model has no correction bias, say moe_use_aux_free false in config.json"
        : "config.json and the weights may be of different models, or a file of the weights is missing",
    });
  }

  #warnAboutRounding(specs: readonly WeightSpec[]): void {
    const routers = new Set(
      specs
        .filter(({ dtype }) => dtype === "f32")
        .flatMap((spec) => spellings(spec, this.#prefix, this.config).flatMap(refsOf))
        .map(({ name }) => name),
    );
    const rounded = [...this.#used].filter(
      (name) => ["F32", "F16"].includes(this.index.tensors.get(name)?.dtype ?? "") && !routers.has(name),
    );
    const [first] = rounded;
    if (first === undefined) return;
    this.#warnings.push(
      new Diagnostic({
        code: "weights-rounded",
        message: `found ${rounded.length} tensors of type ${this.index.tensors.get(first)?.dtype}, which are rounded to bf16`,
        place: this.#place(first),
      }),
    );
  }

  /** PaddleFormers' training checkpoints interleave q, k and v per kv head under the same name, and no shape tells the two apart. */
  #warnAboutQkv(): void {
    const name = [...this.#used].find((used) => used.includes(".qkv_proj."));
    if (name === undefined || this.#prefix === "ernie." || this.config.kvHeads === 1) return;
    this.#warnings.push(
      new Diagnostic({
        code: "weights-qkv-order",
        message: "found a fused qkv_proj, read as all of q, then all of k, then all of v",
        place: this.#place(name),
        hint: "training checkpoints that interleave them per kv head must be converted first",
      }),
    );
  }

  #place(name: string): string {
    return tensorPlace(this.index, name);
  }
}

function refsOf(spelling: Spelling): readonly TensorRef[] {
  return spelling.kind === "one" ? [spelling.ref] : spelling.refs;
}

/** With the correction bias listed, so that one in the checkpoint is found whatever the config says. */
function withCorrection(config: ModelConfig): ModelConfig {
  return config.moe ? { ...config, moe: { ...config.moe, correction: true } } : config;
}

function isOptional({ name }: WeightSpec, { moe }: ModelConfig): boolean {
  return name.endsWith("e_score_correction_bias") && moe?.correction === false;
}

function transposed(shape: readonly number[]): number[] {
  return [...shape.slice(0, -2), shape.at(-1) as number, shape.at(-2) as number];
}
