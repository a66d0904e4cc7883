/** The passes on whole models: each fires in every layer where it should, and the goldens are met without any one of them. */

import { beforeAll, describe, expect, it } from "vitest";
import { FUSION_PASSES } from "../../src/passes/pipeline.js";
import { runPipeline } from "../../src/passes/run.js";
import { ReferenceSession } from "../../src/reference/session.js";
import { GOLDEN_NAMES, type GoldenModel, type GoldenName, loadGolden, nmse } from "../reference/golden-model.js";

const names = [...new Set(FUSION_PASSES.map(({ name }) => name))];

/** Rewrites of each rule over the prefill program. */
const EXPECTED: { readonly [K in GoldenName]: { readonly [rule: string]: number } } = {
  dense: { siblings: 3, "rotate-and-append": 3, "gate-and-up": 3, "sum-then-norm": 6, "head-then-argmax": 1 },
  "dense-bias-untied": { siblings: 2, "rotate-and-append": 2, "gate-and-up": 2, "sum-then-norm": 4, "head-then-argmax": 1 },
  // One dense layer, three of experts, each with shared ones.
  moe: { siblings: 4, "rotate-and-append": 4, "gate-and-up": 4, experts: 3, "add-to-sum": 3, "sum-then-norm": 8, "head-then-argmax": 1 },
  // Without shared experts their sum takes the residual, so those layers' sums are not left for add_rms_norm.
  "moe-no-shared-untied": {
    siblings: 5,
    "rotate-and-append": 5,
    "gate-and-up": 3,
    experts: 2,
    "add-to-sum": 2,
    "sum-then-norm": 8,
    "head-then-argmax": 1,
  },
};

describe.each(GOLDEN_NAMES)("%s", (name) => {
  let model: GoldenModel;
  beforeAll(async () => {
    model = await loadGolden(name);
  });

  it.each(["f32", "bf16"] as const)("fires in every layer, with %s activations", (activations) => {
    const { graph, reports } = runPipeline(model.program("prefill", activations), FUSION_PASSES);
    const counts: { [rule: string]: number } = {};
    for (const { rule } of reports.flatMap(({ applied }) => applied)) counts[rule] = (counts[rule] ?? 0) + 1;
    const rounded: { [rule: string]: string } =
      activations === "bf16" ? { siblings: "siblings-rounded-v", "rotate-and-append": "rotate-round-and-append" } : {};
    for (const [rule, count] of Object.entries(EXPECTED[name])) expect([rule, counts[rounded[rule] ?? rule]]).toEqual([rule, count]);
    // The last layer's MLP and the head run on the last rows; what is left of full size ends with the attention.
    const firstShort = graph.nodes.findIndex((node) => node.op === "gather_rows");
    const later = graph.nodes.slice(firstShort).filter((node) => node.op !== "gather_rows");
    expect(later.some((node) => node.op === "linear_swiglu" || node.op === "moe_ffn")).toBe(true);
    expect(
      later.every((node) => node.results.every(({ type }) => type.kind === "tensor" && JSON.stringify(type.shape[0]).includes('"S"'))),
    ).toBe(true);
    for (const op of ["rope", "kv_append", "swiglu", "moe_combine", "split", "argmax"])
      expect(graph.nodes.map((node) => node.op)).not.toContain(op);
  });

  it.each(names)("meets the goldens without %s", (pass) => {
    const { program, environment, golden } = model;
    const ids = Array.from(golden.get("input_ids") as ArrayLike<number>);
    const { graph } = runPipeline(program("prefill"), FUSION_PASSES, { disable: [pass] });
    const { logits, next_ids } = new ReferenceSession(environment).step(graph, [{ sequence: 0, ids }]);
    const expected = Array.from(golden.get("logits") as ArrayLike<number>).slice(-(logits?.data.length ?? 0));
    expect(nmse(logits?.data ?? [], expected)).toBeLessThan(1e-9);
    expect(next_ids?.data[0]).toBe((golden.get("greedy_ids") as ArrayLike<number>)[0]);
  });
});
