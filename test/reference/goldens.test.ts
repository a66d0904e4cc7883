/** The reference against what transformers computed: at once, token by token, in chunks, as the frontend builds it and after the fusions. */

import { beforeAll, describe, expect, it } from "vitest";
import type { Graph } from "../../src/ir/graph.js";
import { FUSION_PASSES } from "../../src/passes/pipeline.js";
import { runPipeline } from "../../src/passes/run.js";
import { ReferenceSession } from "../../src/reference/session.js";
import { GOLDEN_NAMES, type GoldenModel, loadGolden, nmse } from "./golden-model.js";

/** The bar of f32 activations for whole models; the reference itself is at about 1e-12. */
const TOLERANCE = 1e-9;

const fused = (graph: Graph) => runPipeline(graph, FUSION_PASSES).graph;

describe.each(GOLDEN_NAMES)("%s", (name) => {
  let model: GoldenModel;
  let ids: readonly number[];
  beforeAll(async () => {
    model = await loadGolden(name);
    ids = Array.from(model.golden.get("input_ids") as ArrayLike<number>);
  });

  it.each([
    ["as built", (graph: Graph) => graph],
    ["fused", fused],
  ])("traces hidden states, router and logits, %s", (_, prepare) => {
    const found = new ReferenceSession(model.environment).step(prepare(model.program("trace")), [{ sequence: 0, ids }]);
    const traced = [...model.golden].filter(([tensor]) => !/^(greedy|input)_/.test(tensor));
    expect(traced.length).toBeGreaterThan(2);
    for (const [tensor, expected] of traced) {
      expect(found[tensor], tensor).toBeDefined();
      expect(nmse(found[tensor]?.data ?? [], expected), tensor).toBeLessThan(TOLERANCE);
    }
  });

  it("stays near with activations in bf16, fused or not", () => {
    const step = (graph: Graph) => new ReferenceSession(model.environment).step(graph, [{ sequence: 0, ids }]);
    const [found, other] = [step(fused(model.program("trace", "bf16"))), step(model.program("trace", "bf16"))];
    // From the first token on whose experts differ from those of f32 it is another computation.
    const flipped = firstFlip(found, model.golden);
    const vocabulary = (found.logits?.data.length ?? 0) / ids.length;
    const rows = (data: ArrayLike<number> | undefined) => Array.from(data ?? []).slice(0, flipped * vocabulary);
    expect(flipped).toBeGreaterThan(0);
    expect(nmse(rows(found.logits?.data), rows(model.golden.get("logits")))).toBeLessThan(5e-4);
    expect(nmse(rows(found.logits?.data), rows(other.logits?.data))).toBeLessThan(1e-4);
  });

  it("continues greedily through prefill and decode", () => {
    const session = new ReferenceSession(model.environment);
    const [prefill, decode] = [fused(model.program("prefill")), fused(model.program("decode"))];
    const vocabulary = (model.golden.get("logits") as ArrayLike<number>).length / ids.length;
    const greedy = Array.from(model.golden.get("greedy_ids") as ArrayLike<number>);
    const logits = Array.from(model.golden.get("greedy_logits") as ArrayLike<number>);
    let step = session.step(prefill, [{ sequence: 0, ids }]);
    for (const [i, id] of greedy.entries()) {
      expect(step.next_ids?.data[0]).toBe(id);
      expect(nmse(step.logits?.data ?? [], logits.slice(i * vocabulary, (i + 1) * vocabulary))).toBeLessThan(TOLERANCE);
      step = session.step(decode, [{ sequence: 0, ids: [id] }]);
    }
  });

  it.each([1, 7])("gives the same in chunks of %i, beside another sequence", (size) => {
    const session = new ReferenceSession(model.environment);
    const score = fused(model.program("score"));
    const rows: number[] = [];
    for (let start = 0; start < ids.length; start += size) {
      const chunk = ids.slice(start, start + size);
      const other = { sequence: 1, ids: [...chunk].reverse() };
      const { logits } = session.step(score, [other, { sequence: 0, ids: chunk }]);
      rows.push(...Array.from(logits?.data ?? []).slice((logits?.data.length ?? 0) / 2));
    }
    expect(nmse(rows, model.golden.get("logits") as ArrayLike<number>)).toBeLessThan(TOLERANCE);
  });
});

/** The first row where a router chose another set of experts; the number of rows if there is none. */
function firstFlip(
  found: { readonly [name: string]: { readonly data: ArrayLike<number>; readonly shape: readonly number[] } },
  golden: GoldenModel["golden"],
): number {
  const rows = found.logits?.shape[0] ?? 0;
  const chosen = (data: ArrayLike<number> | undefined, row: number, k: number) =>
    Array.from(data ?? [])
      .slice(row * k, (row + 1) * k)
      .sort()
      .join();
  const routers = Object.entries(found).filter(([name]) => name.endsWith(".indices"));
  const flips = Array.from({ length: rows }, (_, row) => row).filter((row) =>
    routers.some(([name, { data, shape }]) => chosen(data, row, shape[1] ?? 1) !== chosen(golden.get(name), row, shape[1] ?? 1)),
  );
  return flips[0] ?? rows;
}
