import { describe, expect, it } from "vitest";
import { parseConfig } from "../../src/frontend/config.js";
import { buildProgram, PROGRAM_KINDS } from "../../src/frontend/model.js";
import { PRESET_NAMES, presetConfig } from "../../src/frontend/presets.js";
import { resolveWeights } from "../../src/frontend/resolve-weights.js";
import { declareWeights } from "../../src/frontend/weight-set.js";
import type { Graph } from "../../src/ir/graph.js";
import { parse } from "../../src/ir/parse.js";
import { print, printType } from "../../src/ir/print.js";
import { verify } from "../../src/ir/verify.js";
import { config, GOLDENS, index, paddleTensors } from "./support.js";

const bounds = { T: { min: 1, max: 64 }, S: { min: 1, max: 8 }, C: { min: 1, max: 16 } };
const ACTIVATIONS = ["bf16", "f32"] as const;

function types(graph: Graph): string[] {
  return graph.params.map(({ name, value }) => `${name} ${printType(value.type)}`);
}

function names(graph: Graph): string[] {
  return graph.returns.map(({ name }) => name);
}

describe("every program of every model", () => {
  const all = PRESET_NAMES.flatMap((name) => PROGRAM_KINDS.map((kind) => [name, kind] as const));
  it.each(all)("%s: %s", (name, kind) => {
    const { config: model } = parseConfig(presetConfig(name), name);
    verify(buildProgram(model, declareWeights(model), { kind, activations: "bf16", bounds }), "model");
  });

  it.each(GOLDENS)("golden %s, declared and from Paddle's form", (name) => {
    const model = config(name);
    for (const weights of [declareWeights(model), resolveWeights(model, index(paddleTensors(model)))]) {
      for (const kind of PROGRAM_KINDS) {
        for (const activations of ACTIVATIONS) {
          const graph = buildProgram(model, weights, { kind, activations, bounds });
          verify(graph, "model");
          expect(print(parse(print(graph)))).toBe(print(graph));
        }
      }
    }
  });
});

describe("the contract with the plan", () => {
  const model = config("moe");
  const build = (kind: (typeof PROGRAM_KINDS)[number], activations: "bf16" | "f32" = "bf16") =>
    buildProgram(model, declareWeights(model), { kind, activations, bounds });
  const caches = ["kv0", "kv1", "kv2", "kv3"];

  it("parameters", () => {
    const common = [
      "ids i32[T]",
      "positions i32[T, 3]",
      "slots i32[T]",
      "kinds i32[T]",
      "query_start i32[S+1]",
      "context i32[S]",
      "block_table i32[S, C]",
      "last_rows i32[S]",
    ];
    for (const kind of PROGRAM_KINDS) {
      expect(types(build(kind)).slice(0, 8)).toEqual(common);
      expect(
        build(kind)
          .params.slice(8)
          .map(({ name }) => name),
      ).toEqual(caches);
      expect(
        build(kind)
          .params.slice(8)
          .every(({ value: { type } }) => type.kind === "kv" && type.dtype === "bf16" && type.heads === 1 && type.headDim === 32),
      ).toBe(true);
    }
    expect(build("decode", "f32").params.at(-1)?.value.type).toMatchObject({ kind: "kv", dtype: "f32" });
  });

  it("results", () => {
    expect(names(build("prefill"))).toEqual(["logits", "next_ids", ...caches]);
    expect(names(build("decode"))).toEqual(["logits", "next_ids", ...caches]);
    expect(names(build("score"))).toEqual(["logits", ...caches]);
    const router = (layer: number) => ["logits", "indices", "weights"].map((part) => `router.${layer}.${part}`);
    const traced = ["hidden.0", ...[1, 2, 3].flatMap((layer) => [...router(layer), `hidden.${layer}`]), "final_norm"];
    expect(names(build("trace"))).toEqual(["logits", ...traced, ...caches]);
  });

  it("shapes of the logits, and traces in f32", () => {
    const result = (kind: (typeof PROGRAM_KINDS)[number], name: string) => {
      const type = build(kind).returns.find((value) => value.name === name)?.value.type;
      return type && printType(type);
    };
    expect(result("prefill", "logits")).toBe("f32[S, 384]");
    expect(result("prefill", "next_ids")).toBe("i32[S]");
    for (const kind of ["decode", "score", "trace"] as const) expect(result(kind, "logits")).toBe("f32[T, 384]");
    expect(result("trace", "final_norm")).toBe("f32[T, 128]");
    expect(result("trace", "hidden.0")).toBe("f32[T, 128]");
    expect(result("trace", "router.1.indices")).toBe("i32[T, 3]");
  });

  it("f32 activations round nothing", () => {
    const graph = build("prefill", "f32");
    expect(graph.nodes.some(({ op }) => op === "cast")).toBe(false);
    expect(graph.nodes.every(({ attrs }) => !("dtype" in attrs) || attrs.dtype === "f32")).toBe(true);
  });

  it("bf16 activations: matmuls and the cache read bf16; the router, what q, k and v are made of, and the residual stream f32", () => {
    let f32Reads = 0;
    for (const node of build("prefill").nodes) {
      const dtype = (value: { readonly type: { readonly dtype: string } }) => value.type.dtype;
      if (node.op === "linear" && dtype(node.operands.x) === "f32") f32Reads++;
      else if (node.op === "linear" || node.op === "expert_linear")
        expect([dtype(node.operands.x), node.attrs.dtype]).toEqual(["bf16", "f32"]);
      if (node.op === "moe_router") expect([dtype(node.operands.x), dtype(node.operands.gate)]).toEqual(["f32", "f32"]);
      if (node.op === "add") expect(dtype(node.operands.a)).toBe("f32");
      if (node.op === "kv_append") expect([dtype(node.operands.k), dtype(node.operands.v)]).toEqual(["bf16", "bf16"]);
    }
    // q, k and v of each layer: models with experts are that careful (src/frontend/attention.ts).
    expect(f32Reads).toBe(3 * model.layers);
  });

  it("each weight once, under a name that the checkpoint has", () => {
    const weights = build("prefill").nodes.filter(({ op }) => op === "weight");
    const found = weights.map((node) => (node.op === "weight" ? node.attrs.name : ""));
    expect(new Set(found).size).toBe(found.length);
    expect(found).toContain("model.layers.3.mlp.experts.7.down_proj.weight");
  });
});
