/** Which kernels a GPU's buckets get, and what they are given. */

import { describe, expect, it } from "vitest";
import { parseConfig } from "../../../src/frontend/config.js";
import { presetConfig } from "../../../src/frontend/presets.js";
import { declareWeights } from "../../../src/frontend/weight-set.js";
import { type LoweredModel, lowerModel } from "../../../src/lower.js";
import { fusionPasses } from "../../../src/passes/pipeline.js";
import { runPipeline } from "../../../src/passes/run.js";
import { ReferenceSession } from "../../../src/reference/session.js";
import { loadGolden, nmse } from "../../reference/golden-model.js";

const LIMITS = { maxContext: 4096, maxBatch: 64, kvTokens: 4096, prefillChunk: 2048, blockSize: 64 };

function lower(arch: "sm_90a" | "sm_80", deterministic = false): LoweredModel {
  const { config } = parseConfig({ ...presetConfig("ernie-4.5-21b-a3b"), num_hidden_layers: 3 }, "test");
  return lowerModel(
    { config, weights: declareWeights(config), activations: "bf16", arch, limits: LIMITS, deterministic },
    { verify: false },
  );
}

/** Functions that a program calls, each once. */
function called({ programs }: LoweredModel, name: string): readonly string[] {
  const program = programs.find(({ graph }) => graph.name === name);
  return [...new Set(program?.graph.nodes.flatMap((node) => (node.op === "call" ? [node.attrs.kernel] : [])))];
}

const MANY = [
  /^attention_.*_wgmma$/,
  /^qkv_rope_append_/,
  /^norm_router_.*_many$/,
  /^moe_ffn_.*_sorted_up$/,
  /^linear_.*_n2560_k2560_add_gemm$/,
];
const FEW = [
  /^attention_bf16_h20_kv4_d128$/,
  /^(moe|norm)_router_.*corrected$/,
  /^moe_ffn_.*_up$/,
  /^linear_.*_n2560_k2560_add_(many|rounds)$/,
];

describe("a mixture on a GPU", () => {
  it("has products on wgmma where there are many rows", () => {
    const model = lower("sm_90a");
    const many = called(model, "prefill_t2048");
    for (const pattern of MANY) expect(many.filter((name) => pattern.test(name))).toHaveLength(1);
    // One token of each sequence reads few rows of an expert.
    for (const name of ["decode_s1", "decode_s64", "prefill_t16"])
      for (const pattern of MANY.slice(1)) expect(called(model, name).filter((kernel) => pattern.test(kernel))).toEqual([]);
  });

  it.each([
    ["sums in one order", "sm_90a", true],
    ["is of another generation", "sm_80", false],
  ] as const)("has none where it %s", (_, arch, deterministic) => {
    const model = lower(arch, deterministic);
    const all = model.programs.flatMap(({ graph }) => called(model, graph.name));
    expect(all.filter((name) => /_(gemm|wgmma|sorted_up)$/.test(name))).toEqual([]);
    for (const pattern of FEW) expect(called(model, "prefill_t2048").some((name) => pattern.test(name))).toBe(true);
  });

  it("sums in one order in every program where results must not depend on the batch", () => {
    const model = lower("sm_90a", true);
    const orders = new Map<string, Set<string>>();
    for (const { kernel } of model.kernels) orders.set(kernel.op, (orders.get(kernel.op) ?? new Set()).add(kernel.order));
    for (const [op, found] of orders) expect([...found], op).toHaveLength(1);
    expect([...orders.values()].flatMap((found) => [...found])).not.toContain("by-bucket");
    const attention = (name: string) => called(model, name).filter((kernel) => /attention/.test(kernel));
    for (const name of ["decode_s1", "decode_s64", "prefill_t16"]) expect(attention(name)).toEqual(attention("prefill_t2048"));
  });

  it("gives each part of a kernel's scratch a place of its own, the same in all its launches", () => {
    const { graph } = lower("sm_90a").programs.find(({ graph }) => graph.name === "prefill_t2048") ?? { graph: undefined };
    const places = new Map(
      graph?.nodes.flatMap((node) =>
        node.op === "buffer" ? [[node.results[0], `${node.attrs.space} ${node.attrs.offset}`] as const] : [],
      ),
    );
    const args = (suffix: string) => {
      const call = graph?.nodes.find((node) => node.op === "call" && node.attrs.kernel.endsWith(`_sorted_${suffix}`));
      return call?.op === "call" ? call.operands.args.map((value) => places.get(value)) : [];
    };
    const [, offsets, rowsPlaces] = args("sort");
    const [, , sorted] = args("gather");
    const [, , , activations] = args("up");
    const [, , , expertRows] = args("down");
    expect(new Set([offsets, rowsPlaces, sorted, activations, expertRows]).size).toBe(5);
    expect(args("gather").slice(1)).toEqual([rowsPlaces, sorted]);
    expect(args("up").slice(0, 2)).toEqual([offsets, sorted]);
    expect(args("down").slice(0, 2)).toEqual([offsets, activations]);
    expect(args("sum").slice(0, 2)).toEqual([expertRows, rowsPlaces]);
  });

  it("means the same with the passes for GPUs", async () => {
    const { program, environment, golden } = await loadGolden("moe");
    const ids = Array.from(golden.get("input_ids") as ArrayLike<number>);
    const { graph, reports } = runPipeline(program("prefill"), fusionPasses("cuda"));
    expect(reports.flatMap(({ applied }) => applied).filter(({ rule }) => rule === "experts-then-add").length).toBeGreaterThan(0);
    const { logits } = new ReferenceSession(environment).step(graph, [{ sequence: 0, ids }]);
    const expected = Array.from(golden.get("logits") as ArrayLike<number>).slice(-(logits?.data.length ?? 0));
    expect(nmse(logits?.data ?? [], expected)).toBeLessThan(1e-9);
  });
});
