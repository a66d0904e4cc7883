import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Diagnostic } from "../../src/diagnostics.js";
import { parseConfig } from "../../src/frontend/config.js";
import { type JsonObject, parseJsonObject } from "../../src/frontend/json.js";
import { changed, config, GOLDENS, goldenJson, parsed, readJson, refusal } from "./support.js";

describe("spellings of a config", () => {
  it.each([
    ["dense", "Ernie4_5ForCausalLM"],
    ["dense", "Ernie4_5_ForCausalLM"],
    ["moe", "Ernie4_5_MoeForCausalLM"],
    ["moe", "Ernie4_5_MoEForCausalLM"],
    ["moe", "Ernie4_5MoeForCausalLM"],
  ])("%s: architecture %s", (name, architecture) => {
    expect(config(name, { architectures: [architecture] })).toEqual(config(name));
    expect(config(name, { architectures: [architecture], model_type: undefined })).toEqual(config(name));
  });

  it.each([
    ["dense", "ernie", "ErnieForCausalLM"],
    ["moe", "ernie", "ErnieForCausalLM"],
    ["moe", "ernie_moe", "ErnieMoEForCausalLM"],
    ["moe", "ernie_moe", undefined],
  ])("%s: the ancestors' type %s", (name, type, architecture) => {
    expect(config(name, { model_type: type, architectures: architecture && [architecture] })).toEqual(config(name));
  });

  it("takes head_dim as it stands, and derives it where it is absent", () => {
    expect(config("dense").headDim).toBe(64);
    expect(config("dense", { head_dim: null }).headDim).toBe(32);
    expect(config("moe").headDim).toBe(32);
  });

  it("takes rope_theta, rope_parameters, or both when they agree", () => {
    const old = { rope_parameters: undefined, rope_theta: 10 };
    expect(config("dense", old).ropeTheta).toBe(10);
    expect(config("dense", { rope_parameters: { rope_theta: 10, rope_type: "default" }, rope_theta: 10 }).ropeTheta).toBe(10);
    expect(config("dense", { rope_parameters: undefined }).ropeTheta).toBe(500000);
    for (const rope_scaling of [null, { type: "default" }, { rope_type: "default" }])
      expect(config("dense", { rope_scaling })).toEqual(config("dense"));
  });

  it.each([
    ["null", null],
    ["-1", -1],
    ["beyond the last layer", 27],
    ["the last layer", 3],
    ["a list of one", [3]],
    ["absent", undefined],
  ])("moe_layer_end_index %s", (_, end) => {
    expect(config("moe", { moe_layer_end_index: end }).moe?.layers).toEqual([false, true, true, true]);
  });

  it("knows start, end, interval and lists of layers", () => {
    const layers = (changes: { readonly [key: string]: unknown }) => config("moe", changes).moe?.layers;
    expect(layers({ moe_layer_start_index: 2, moe_layer_end_index: 2 })).toEqual([false, false, true, false]);
    expect(layers({ moe_layer_start_index: 0, moe_layer_interval: 2 })).toEqual([false, true, false, true]);
    const none = { moe_layer_start_index: undefined, moe_layer_end_index: undefined, moe_layer_interval: undefined };
    expect(layers(none)).toEqual([false, true, true, true]);
    expect(layers({ ...none, mlp_layer_types: ["sparse", "dense", "dense", "sparse"] })).toEqual([true, false, false, true]);
    expect(layers({ mlp_layer_types: ["dense", "sparse", "sparse", "sparse"] })).toEqual([false, true, true, true]);
  });

  it.each([null, 0, [0]])("no shared experts as %j", (value) => {
    expect(config("moe", { moe_num_shared_experts: value }).moe?.sharedExperts).toBe(0);
  });

  it("reads lists of one, token id lists and the pad id -1", () => {
    const model = config("moe", { moe_num_experts: [8], moe_intermediate_size: [64], eos_token_id: [2, 7], pad_token_id: -1 });
    expect(model.moe).toEqual(config("moe").moe);
    expect([model.eosIds, model.padId]).toEqual([[2, 7], null]);
  });

  it("says of a file which way round its matrices are", () => {
    const style = (changes: { readonly [key: string]: unknown }) =>
      config("dense", { transformers_version: undefined, dtype: undefined, ...changes }).style;
    expect(style({ torch_dtype: "bfloat16" })).toBe("pt");
    expect(style({ dtype: "bfloat16", transformers_version: "5.17.0" })).toBe("pt");
    expect(style({ dtype: "bfloat16" })).toBe("paddle");
    expect(style({})).toBe(null);
  });

  it("assumes the tie flag as the file's writer does", () => {
    expect(config("dense", { tie_word_embeddings: undefined }).tied).toBe(true);
    const paddle = parsed("dense", { tie_word_embeddings: undefined, transformers_version: undefined });
    expect(paddle.config.tied).toBe(false);
    expect(paddle.warnings.map(({ code }) => code)).toEqual(["config-assumed"]);
  });

  it("does not guess where the libraries' defaults differ", async () => {
    const paddle = { transformers_version: undefined, moe_layer_interval: undefined };
    expect(config("moe", { ...paddle, transformers_version: "4.55.0" }).moe?.layers).toEqual([false, true, true, true]);
    expect((await refusal(() => parsed("moe", paddle))).toJSON()).toMatchObject({
      code: "config-missing-field",
      place: "config.json: moe_layer_interval",
    });
    const rope = { transformers_version: undefined, rope_parameters: undefined };
    expect((await refusal(() => parsed("dense", rope))).hint).toContain("500000");
  });

  it("warns of a pretraining config", () => {
    const { warnings } = parsed("moe", {
      rope_parameters: undefined,
      rope_theta: 10000,
      bos_token_id: 0,
      eos_token_id: 1,
      pad_token_id: -1,
      num_empty_layers_add_in_tail: 2,
    });
    expect(warnings.map(({ code }) => code)).toEqual(["config-pretraining"]);
    expect(warnings[0]?.message).toContain("rope_theta 10000");
  });

  it("freezes what it gives", () => {
    const model = config("moe");
    expect([model, model.moe, model.moe?.layers, model.eosIds].every(Object.isFrozen)).toBe(true);
  });
});

describe("not supported yet", () => {
  it.each([
    ["the flat VL form", { model_type: "ernie4_5_moe_vl", architectures: ["Ernie4_5_VLMoeForConditionalGeneration"] }],
    ["the nested VL form", { model_type: "ernie4_5_vl_moe", text_config: {}, vision_config: {} }],
    ["a VL architecture alone", { model_type: undefined, architectures: ["Ernie4_5_VLMoeForConditionalGeneration"] }],
    ["a vision part", { vision_config: { depth: 2 } }],
    ["experts of two modalities", { moe_num_experts: [64, 64] }],
    ["widths of two modalities", { moe_intermediate_size: [64, 32] }],
    ["3-D positions", { rope_3d: true }],
    ["a scaled RoPE", { rope_scaling: { type: "linear", factor: 2 } }],
    ["a scaled RoPE without a type", { rope_scaling: { factor: 2 } }],
    ["a scaled RoPE in the new key", { rope_parameters: { rope_theta: 1e4, rope_type: "yarn" } }],
    ["a partial RoPE", { rope_parameters: { rope_theta: 1e4, rope_type: "default", partial_rotary_factor: 0.5 } }],
    ["sections of a RoPE", { rope_parameters: { rope_theta: 1e4, rope_type: "default", mrope_section: [22, 22, 20] } }],
    ["a compressed position", { compression_ratio: 2 }],
    ["another activation", { hidden_act: "gelu" }],
    ["a quantised checkpoint", { quantization_config: { quant_type: "wint4" } }],
    ["a sigmoid router", { moe_gate_act: "sigmoid" }],
    ["weights that are not normalised", { moe_norm_gate_logits: false }],
    ["expert groups", { moe_group_experts: true }],
    ["a sliding window", { sliding_window: 512 }],
    ["a layer norm", { use_rmsnorm: false }],
  ])("%s", async (_, changes) => {
    const error = await refusal(() => parsed("moe", changes));
    expect(error.kind).toBe("unsupported");
    expect(error.message).toContain("not yet supported");
    expect(error.place).toContain("config.json: ");
  });

  it.each(["vl-images", "vl-flat-untied"])("the golden config %s", async (name) => {
    const { shared } = await import("./shared-files.js");
    const file = shared(`goldens/${name}/config.json`);
    if (file === undefined) return console.warn(`skipped: goldens/${name} of the shared files is missing`);
    expect((await refusal(() => parseConfig(JSON.parse(file) as JsonObject, "config.json"))).code).toBe("config-vl-unsupported");
  });
});

describe("bad configs", () => {
  const sizes = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "moe_num_experts",
    "moe_k",
    "moe_intermediate_size",
  ];

  it.each(sizes.flatMap((key) => [undefined, "128", true, {}, -4, 0, 1.5, 1e30, [2, 2, 2]].map((value) => [key, value] as const)))(
    "%s: %j",
    async (key, value) => {
      const error = await refusal(() => parsed("moe", { [key]: value }));
      expect(error.code).toMatch(/^config-(missing-field|wrong-type|out-of-range|vl-unsupported)$/);
      expect(error.place).toBe(`config.json: ${key}`);
      expect(error.summary).toMatch(/^found .*expected /);
    },
  );

  it.each([
    ["rms_norm_eps", [0, -1, "1e-5", 2]],
    ["rope_theta", [0, 1, -5, "x", 1e40]],
    ["rope_parameters", [[], 5, "default"]],
    ["head_dim", [0, -2, 31, 2.5, 4096, "64"]],
    ["use_bias", [1, "false"]],
    ["tie_word_embeddings", ["true", 0]],
    ["max_position_embeddings", [0, -1, 1e12, 0.5]],
    ["eos_token_id", [-1, 384, 1.5, "2", [2, 9999]]],
    ["bos_token_id", [384, -2]],
    ["moe_layer_start_index", [-1, 4, 0.5]],
    ["moe_layer_end_index", [-2, 0, 1e9, "last"]],
    ["moe_layer_interval", [0, -1, 5]],
    ["moe_norm_min", [-1, 2, "0"]],
    ["moe_num_shared_experts", [-1, 1000, 0.5]],
    [
      "mlp_layer_types",
      [
        ["sparse"],
        "sparse",
        ["dense", "dense", "dense", "dense"],
        ["sparse", "sparse", "sparse", "other"],
        ["sparse", "dense", "sparse", "sparse"],
      ],
    ],
    ["moe_k", [9]],
    ["num_key_value_heads", [3]],
    ["num_attention_heads", [5]],
    ["architectures", ["Ernie", ["LlamaForCausalLM"], [1], ["Ernie4_5ForCausalLM", "Ernie4_5_MoeForCausalLM"], ["Ernie4_5_Model"]]],
    ["model_type", ["llama", 5, "ernie4_5", "toString", "__proto__"]],
    ["hidden_act", [1]],
    ["torch_dtype", [16]],
    ["num_nextn_predict_layers", [-1, 99]],
  ])("%s", async (key, values) => {
    for (const value of values) {
      const error = await refusal(() => parsed("moe", { num_key_value_heads: 2, head_dim: 32, [key]: value }));
      expect(error.summary, JSON.stringify(value)).toMatch(/found .*expected /s);
      expect(error.place, JSON.stringify(value)).toContain("config.json");
      expect(error.kind).toBe("input");
    }
  });

  it("names what is not dividing", async () => {
    expect((await refusal(() => parsed("dense", { num_key_value_heads: 3 }))).toJSON()).toMatchObject({
      code: "config-not-dividing",
      message: "found 3, expected a divisor of num_attention_heads, which is 4",
      place: "config.json: num_key_value_heads",
    });
    expect((await refusal(() => parsed("dense", { head_dim: undefined, hidden_size: 130 }))).place).toBe("config.json: head_dim");
    expect((await refusal(() => parsed("dense", { head_dim: undefined, hidden_size: 132 }))).summary).toContain("even");
  });

  it("refuses two values of theta, a dense type with experts, and what no machine holds", async () => {
    expect((await refusal(() => parsed("dense", { rope_theta: 10 }))).code).toBe("config-rope-conflict");
    expect((await refusal(() => parsed("dense", { moe_num_experts: 8 }))).code).toBe("config-kind-conflict");
    expect((await refusal(() => parsed("dense", { model_type: "ernie4_5_moe" }))).code).toBe("config-kind-conflict");
    expect((await refusal(() => parsed("dense", { hidden_size: 2 ** 20, intermediate_size: 2 ** 20, num_hidden_layers: 1000 }))).code).toBe(
      "config-too-large",
    );
    expect((await refusal(() => parsed("moe", { moe_num_experts: 1024, num_hidden_layers: 1000 }))).code).toBe("config-out-of-range");
  });

  it("suggests the type that was meant", async () => {
    expect((await refusal(() => parsed("dense", { architectures: undefined, model_type: "ernie4.5" }))).hint).toBe(
      "did you mean ernie4_5?",
    );
    expect((await refusal(() => parsed("dense", { model_type: undefined, architectures: undefined }))).code).toBe("config-missing-field");
    expect((await refusal(() => parsed("dense", { model_type: "ernie", type_vocab_size: 2 }))).code).toBe("config-not-ernie45");
  });

  it.each([
    ["a key twice", '{"hidden_size": 1,\n"hidden_size": 2}', "json-duplicate-key", "config.json:2"],
    ["NaN", '{"rms_norm_eps": NaN}', "json-syntax", "config.json:1"],
    ["-Infinity", '{"rms_norm_eps": -Infinity}', "json-syntax", "config.json:1"],
    ["a comment", "{} // x", "json-syntax", "config.json:1"],
    ["an array", "[]", "json-not-object", "config.json"],
    ["nothing", "", "json-syntax", "config.json:1"],
    ["deep nesting", "[".repeat(100000), "json-syntax", "config.json:1"],
  ])("JSON with %s", async (_, text, code, place) => {
    expect((await refusal(() => parseJsonObject(text, "config.json"))).toJSON()).toMatchObject({ code, place });
  });

  it("shows hostile text without control characters, and short", async () => {
    const error = await refusal(() =>
      parsed("dense", { architectures: undefined, model_type: `\u001b[31m\u0000*/\${x}"${"a".repeat(5000)}` }),
    );
    for (const control of ["\u0000", "\u001b"]) expect(error.message).not.toContain(control);
    expect(error.message.length).toBeLessThan(400);
  });

  it("gives a Diagnostic or a config, whatever the file says", () => {
    const keys = [
      ...new Set([
        ...Object.keys(goldenJson("moe")),
        "head_dim",
        "rope_theta",
        "rope_scaling",
        "mlp_layer_types",
        "text_config",
        "__proto__",
      ]),
    ];
    fc.assert(
      fc.property(fc.constantFrom(...GOLDENS), fc.dictionary(fc.constantFrom(...keys), fc.jsonValue(), { maxKeys: 4 }), (name, changes) => {
        try {
          expect(Object.isFrozen(parseConfig(changed(name, changes), "config.json").config)).toBe(true);
        } catch (error) {
          if (!(error instanceof Diagnostic) || error.kind === "bug") throw error;
        }
      }),
      { numRuns: 300 },
    );
  });
});

it("reads the mini models' configs without a warning", () => {
  for (const name of ["ernie-mini-dense", "ernie-mini-moe"]) {
    expect(parseConfig(readJson(`examples/models/${name}/config.json`) as JsonObject, name).warnings).toEqual([]);
  }
});
