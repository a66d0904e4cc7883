import { describe, expect, it } from "vitest";
import type { ModelConfig } from "../../src/frontend/config.js";
import { resolveWeights } from "../../src/frontend/resolve-weights.js";
import type { TensorInfo } from "../../src/frontend/tensor-index.js";
import { declareWeights, type WeightExpr } from "../../src/frontend/weight-set.js";
import { openCheckpoint } from "../../src/weights/checkpoint.js";
import { config, GOLDENS, index, paddleTensors, path, ptTensors, readJson, refusal } from "./support.js";

const moe = config("moe");
const dense = config("dense");

function resolve(model: ModelConfig, tensors: ReadonlyMap<string, TensorInfo>) {
  return resolveWeights(model, index(tensors));
}

function expr(model: ModelConfig, tensors: ReadonlyMap<string, TensorInfo>, name: string): WeightExpr | undefined {
  return resolve(model, tensors).weights.get(name)?.expr;
}

/** With some tensors renamed, changed, added, or (undefined) removed. */
function edited(
  tensors: ReadonlyMap<string, TensorInfo>,
  changes: { readonly [name: string]: Partial<TensorInfo> | undefined },
): Map<string, TensorInfo> {
  const copy = new Map(tensors);
  for (const [name, change] of Object.entries(changes)) {
    if (change === undefined) copy.delete(name);
    else copy.set(name, { dtype: "BF16", shape: [], file: 0, ...copy.get(name), ...change });
  }
  return copy;
}

describe("names and shapes", () => {
  it.each(GOLDENS)("%s: as the golden's checkpoint has them", async (name) => {
    const { checkpoint_tensors: names } = readJson(`test/goldens/${name}/golden.json`);
    const model = config(name);
    expect([...ptTensors(model).keys()].sort()).toEqual([...(names as string[])].sort());
    const checkpoint = await openCheckpoint(path(`test/goldens/${name}`));
    const found = resolveWeights(model, checkpoint);
    expect([found.warnings, found.unused, found.tied]).toEqual([[], [], model.tied]);
    expect([...found.weights]).toEqual([...declareWeights(model).weights]);
  });

  it.each(["ernie-mini-dense", "ernie-mini-moe"])("%s: every tensor is used", async (name) => {
    const { readConfig } = await import("../../src/frontend/config.js");
    const folder = path(`examples/models/${name}`);
    const { config: model } = await readConfig(`${folder}/config.json`);
    const found = resolveWeights(model, await openCheckpoint(folder));
    expect([found.warnings, found.unused]).toEqual([[], []]);
  });
});

describe("spellings of a checkpoint", () => {
  it("Paddle: prefix, fused projections, [in, out]", () => {
    const tensors = paddleTensors(moe);
    expect(resolve(moe, tensors).warnings).toEqual([]);
    const qkv = { kind: "transpose", of: { kind: "tensor", name: "ernie.layers.1.self_attn.qkv_proj.weight", shape: [128, 192] } };
    expect(expr(moe, tensors, "model.layers.1.self_attn.q_proj.weight")).toEqual({ kind: "rows", of: qkv, start: 0, length: 128 });
    expect(expr(moe, tensors, "model.layers.1.self_attn.k_proj.weight")).toEqual({ kind: "rows", of: qkv, start: 128, length: 32 });
    expect(expr(moe, tensors, "model.layers.1.self_attn.v_proj.weight")).toEqual({ kind: "rows", of: qkv, start: 160, length: 32 });
    // Square, so the others decide.
    const square = { kind: "tensor", name: "ernie.layers.1.self_attn.o_proj.weight", shape: [128, 128] };
    expect(expr(moe, tensors, "model.layers.1.self_attn.o_proj.weight")).toEqual({ kind: "transpose", of: square });
    const up = expr(moe, tensors, "model.layers.1.mlp.experts.*.up_proj.weight");
    const first = {
      kind: "transpose",
      of: { kind: "tensor", name: "ernie.layers.1.mlp.experts.0.up_gate_proj.weight", shape: [128, 128] },
    };
    expect(up?.kind === "stack" && up.parts[0]).toEqual({ kind: "rows", of: first, start: 64, length: 64 });
    expect(expr(moe, tensors, "model.layers.1.mlp.gate.weight")).toEqual({
      kind: "transpose",
      of: { kind: "tensor", name: "ernie.layers.1.mlp.gate.weight", shape: [128, 8] },
    });
    expect(expr(moe, tensors, "model.embed_tokens.weight")).toEqual({
      kind: "tensor",
      name: "ernie.embed_tokens.weight",
      shape: [384, 128],
    });
  });

  it.each(["dense-bias-untied", "moe-no-shared-untied"])("Paddle: %s, with biases and a head [in, out]", (name) => {
    const model = config(name);
    const found = resolve(model, paddleTensors(model));
    expect([found.tied, found.warnings]).toEqual([false, []]);
    expect(found.weights.get("lm_head.weight")?.expr.kind).toBe("transpose");
    expect([...found.weights.keys()]).toEqual([...declareWeights(model).weights.keys()]);
  });

  it("shares one expression where two weights come from one tensor", () => {
    const { weights } = resolve(moe, paddleTensors(moe));
    const [q, k] = ["q", "k"].map((which) => weights.get(`model.layers.0.self_attn.${which}_proj.weight`)?.expr);
    expect(q?.kind === "rows" && k?.kind === "rows" && q.of === k.of).toBe(true);
  });

  it("PT names with fused projections, with a warning where q, k and v may be interleaved", () => {
    const renamed = new Map<string, TensorInfo>();
    for (const [name, info] of paddleTensors(config("dense"))) {
      renamed.set(name.replace("ernie.", "model."), {
        ...info,
        shape: info.shape.length === 2 && !name.includes("embed") ? [...info.shape].reverse() : info.shape,
      });
    }
    const found = resolve(dense, renamed);
    expect(found.warnings.map(({ code }) => code)).toEqual(["weights-qkv-order"]);
    expect(found.weights.get("model.layers.0.mlp.gate_proj.weight")?.expr).toEqual({
      kind: "rows",
      of: { kind: "tensor", name: "model.layers.0.mlp.up_gate_proj.weight", shape: [640, 128] },
      start: 0,
      length: 320,
    });
  });

  it("transformers 5's own form: stacked experts, the bias inside the gate", () => {
    const tensors = ptTensors(moe);
    for (const name of [...tensors.keys()]) if (/experts\.\d+\./.test(name) || name.includes("e_score")) tensors.delete(name);
    for (const layer of [1, 2, 3]) {
      const prefix = `model.layers.${layer}.mlp`;
      tensors.set(`${prefix}.experts.gate_up_proj`, { dtype: "BF16", shape: [8, 128, 128], file: 0 });
      tensors.set(`${prefix}.experts.down_proj`, { dtype: "BF16", shape: [8, 128, 64], file: 0 });
      tensors.set(`${prefix}.gate.moe_statics.e_score_correction_bias`, { dtype: "F32", shape: [1, 8], file: 0 });
    }
    const fused = { kind: "tensor", name: "model.layers.1.mlp.experts.gate_up_proj", shape: [8, 128, 128] };
    expect(expr(moe, tensors, "model.layers.1.mlp.experts.*.up_proj.weight")).toEqual({ kind: "rows", of: fused, start: 64, length: 64 });
    expect(expr(moe, tensors, "model.layers.1.mlp.experts.*.down_proj.weight")).toEqual({
      kind: "tensor",
      name: "model.layers.1.mlp.experts.down_proj",
      shape: [8, 128, 64],
    });
  });

  it("no prefix at all", () => {
    const tensors = new Map([...ptTensors(dense)].map(([name, info]) => [name.replace(/^model\./, ""), info]));
    expect(expr(dense, tensors, "model.norm.weight")).toEqual({ kind: "tensor", name: "norm.weight", shape: [128] });
  });

  it("element types: bf16, f16, f32 and the bits of bf16 as U16", () => {
    for (const dtype of ["F16", "F32"]) {
      const tensors = new Map([...ptTensors(moe)].map(([name, info]) => [name, { ...info, dtype }]));
      expect(resolve(moe, tensors).warnings.map(({ code }) => code)).toEqual(["weights-rounded"]);
    }
    for (const dtype of ["U16", "BF16"]) {
      const tensors = new Map([...ptTensors(moe)].map(([name, info]) => [name, { ...info, dtype }]));
      expect(resolve(moe, tensors).warnings).toEqual([]);
    }
  });
});

describe("orientation", () => {
  const square = {
    hidden_size: 128,
    num_attention_heads: 4,
    num_key_value_heads: 4,
    head_dim: 32,
    intermediate_size: 128,
    transformers_version: undefined,
    dtype: undefined,
  };

  it("takes each matrix as its shape says", () => {
    const model = config("dense", { num_key_value_heads: 1 });
    const tensors = edited(ptTensors(model), { "model.layers.0.mlp.down_proj.weight": { shape: [320, 128] } });
    expect(expr(model, tensors, "model.layers.0.mlp.down_proj.weight")?.kind).toBe("transpose");
    expect(expr(model, tensors, "model.layers.0.mlp.up_proj.weight")?.kind).toBe("tensor");
  });

  it("asks names and config where every matrix is square", async () => {
    const turn = (prefix: string, style: { readonly [key: string]: unknown }) => {
      const model = config("dense", { ...square, ...style });
      const tensors = new Map([...ptTensors(model)].map(([name, info]) => [name.replace(/^model\./, prefix), info]));
      return () => expr(model, tensors, "model.layers.0.self_attn.o_proj.weight")?.kind;
    };
    expect(turn("model.", {})()).toBe("tensor");
    expect(turn("ernie.", {})()).toBe("transpose");
    expect(turn("ernie.", { dtype: "bfloat16" })()).toBe("transpose");
    expect(turn("", { torch_dtype: "bfloat16" })()).toBe("tensor");
    for (const guess of [turn("ernie.", { torch_dtype: "bfloat16" }), turn("model.", { dtype: "bfloat16" }), turn("", {})]) {
      expect((await refusal(guess)).code).toBe("tensor-orientation");
    }
  });

  it("refuses a square matrix where the others differ", async () => {
    const model = config("moe");
    const tensors = edited(ptTensors(model), { "model.layers.0.mlp.down_proj.weight": { shape: [384, 128] } });
    expect((await refusal(() => resolve(model, tensors))).code).toBe("tensor-orientation");
  });
});

describe("the head", () => {
  const head = { "lm_head.weight": { shape: [384, 128] } };

  it("wins over the config's flag, with a warning", () => {
    const found = resolve(dense, edited(ptTensors(dense), head));
    expect([found.tied, found.warnings.map(({ code }) => code)]).toEqual([false, ["weights-tie-conflict"]]);
    expect(found.weights.has("lm_head.weight")).toBe(true);
  });

  it("is the embedding where there is none, with a warning if the config says otherwise", () => {
    const model = config("dense", { tie_word_embeddings: false });
    const found = resolve(model, ptTensors(dense));
    expect([found.tied, found.warnings.map(({ code }) => code)]).toEqual([true, ["weights-tie-conflict"]]);
  });

  it("may have a bias where the config says so", () => {
    const model = config("dense-bias-untied", { weight_share_add_bias: true });
    expect(resolve(model, ptTensors(model)).weights.has("lm_head.bias")).toBe(true);
  });
});

describe("tensors that are not used", () => {
  it.each([
    "model.mtp_block.0.self_attn.q_proj.weight",
    "model.mtp_emb_norm.0.weight",
    "ernie.mtp_linear_proj.0.weight",
    "model.layers.0.self_attn.rotary_emb.inv_freq",
    "model.layers.1.mlp.moe_statics.expert_usage",
  ])("%s: a rule says why", (name) => {
    const { unused } = resolve(moe, edited(ptTensors(moe), { [name]: { shape: [7], dtype: "F32" } }));
    expect(unused.map((tensor) => tensor.name)).toEqual([name]);
    expect(unused[0]?.reason).not.toBe("");
  });

  it.each([
    ["model.layers.9.input_layernorm.weight", "num_hidden_layers 4"],
    ["model.layers.0.self_attn.q_proj.bias", "use_bias false"],
    ["model.layers.0.self_attn.qproj.weight", "did you mean model.layers.0.self_attn.q_proj.weight?"],
    ["visual.patch", "different models"],
    ["lm_head.bias", "use_bias false"],
  ])("%s: unknown", async (name, hint) => {
    const error = await refusal(() => resolve(moe, edited(ptTensors(moe), { [name]: { shape: [7] } })));
    expect(error.toJSON()).toMatchObject({ code: "tensor-unknown", place: `folder/model.safetensors: "${name}"` });
    expect(error.hint).toContain(hint);
  });

  it("a weight in two spellings is one too many", async () => {
    const tensors = edited(ptTensors(dense), { "model.layers.0.self_attn.qkv_proj.weight": { shape: [512, 128] } });
    expect((await refusal(() => resolve(dense, tensors))).code).toBe("tensor-duplicate");
    expect(
      (await refusal(() => resolve(dense, edited(ptTensors(dense), { "ernie.embed_tokens.weight": { shape: [384, 128] } })))).code,
    ).toBe("tensor-duplicate");
  });
});

describe("tensors that are wrong", () => {
  it.each([
    ["missing", "model.layers.1.self_attn.k_proj.weight", undefined, "tensor-missing"],
    ["missing, one expert", "model.layers.2.mlp.experts.7.down_proj.weight", undefined, "tensor-missing"],
    ["missing, the embedding", "model.embed_tokens.weight", undefined, "tensor-missing"],
    ["missing, a norm", "model.norm.weight", undefined, "tensor-missing"],
    ["missing, the correction bias", "model.layers.1.mlp.moe_statics.e_score_correction_bias", undefined, "tensor-missing"],
    ["one row too many", "model.layers.0.mlp.up_proj.weight", { shape: [385, 128] }, "tensor-shape"],
    ["flat", "model.layers.0.mlp.up_proj.weight", { shape: [384 * 128] }, "tensor-shape"],
    ["of too many axes", "model.layers.0.mlp.up_proj.weight", { shape: [1, 384, 128] }, "tensor-shape"],
    ["a transposed embedding", "model.embed_tokens.weight", { shape: [128, 384] }, "tensor-shape"],
    ["a scalar", "model.norm.weight", { shape: [] }, "tensor-shape"],
    ["a norm of another width", "model.norm.weight", { shape: [64] }, "tensor-shape"],
    ["a bias of two rows", "model.layers.1.mlp.moe_statics.e_score_correction_bias", { shape: [2, 8] }, "tensor-shape"],
    ["of int8", "model.layers.0.mlp.up_proj.weight", { dtype: "I8" }, "tensor-dtype"],
    ["of f8", "model.layers.0.mlp.up_proj.weight", { dtype: "F8_E4M3" }, "tensor-dtype"],
    ["a router of f64", "model.layers.1.mlp.gate.weight", { dtype: "F64" }, "tensor-dtype"],
  ])("%s", async (_, name, change, code) => {
    const error = await refusal(() => resolve(moe, edited(ptTensors(moe), { [name]: change })));
    expect(error.code).toBe(code);
    expect(`${error.place} ${error.summary}`).toContain(name);
    expect(error.summary).toMatch(/found .*expected /);
  });

  it("U16 where the config says another type than bfloat16", async () => {
    const model = config("dense", { dtype: "float16" });
    expect((await refusal(() => resolve(model, edited(ptTensors(model), { "model.norm.weight": { dtype: "U16" } })))).code).toBe(
      "tensor-dtype",
    );
  });

  it("no tensors at all, and another model's", async () => {
    expect((await refusal(() => resolve(dense, new Map()))).code).toBe("tensor-missing");
    expect(
      (await refusal(() => resolve(dense, new Map([["transformer.wte.weight", { dtype: "BF16", shape: [1], file: 0 }]])))).summary,
    ).toContain("transformer.wte");
  });

  it("counts what is missing", async () => {
    const fewer = new Map([...ptTensors(dense)].filter(([name]) => !name.includes("layers.2.")));
    expect((await refusal(() => resolve(dense, fewer))).summary).toContain("8 more are missing");
  });

  it("no correction bias is fine where the config says so", () => {
    const model = config("moe", { moe_use_aux_free: false });
    const without = new Map([...ptTensors(moe)].filter(([name]) => !name.includes("e_score")));
    expect(resolve(model, without).weights.has("model.layers.1.mlp.moe_statics.e_score_correction_bias")).toBe(false);
    // A bias that is there is used all the same.
    expect(resolve(model, ptTensors(moe)).weights.has("model.layers.1.mlp.moe_statics.e_score_correction_bias")).toBe(true);
  });
});
