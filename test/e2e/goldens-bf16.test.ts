/**
 * Compiled packages with bf16 activations. Rounding matmul inputs costs accuracy on random weights, so there are two bars: an absolute one, and at
 * most 1.5 times the error of the reference interpreter, which runs the same graph and rounds at the same places. A router choice may differ only
 * where the f32 margin is under 2e-3; from that token on everything may differ, so those rows are left out.
 */

import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ReferenceSession } from "../../src/reference/session.js";
import { readFloats, readIntegers } from "../../src/weights/read-tensor.js";
import { readSafetensorsHeader } from "../../src/weights/safetensors.js";
import { GOLDEN_NAMES, type GoldenModel, loadGolden } from "../reference/golden-model.js";
import { buildPackage, cliOk, GOLDENS, lead, nmse, WORK } from "./support.js";

const LIMIT = 5e-4;
const OVER_REFERENCE = 1.5;
const MARGIN = 2e-3;
const LEAD = 0.1;

describe.each(GOLDEN_NAMES)("%s", (name) => {
  it.each([[[]], [["--chunk", "7"]], [["--chunk", "1"]]])("%j", async (chunk) => {
    const model = await loadGolden(name);
    const folder = await buildPackage(join(GOLDENS, name));
    const out = join(WORK, `${name}-bf16${chunk.join("")}.safetensors`);
    const ids = Array.from(model.golden.get("input_ids") as ArrayLike<number>);
    await cliOk(["logits", folder, "--ids", ids.join(","), "--greedy", "8", ...chunk, "-o", out]);
    const traceOut = join(WORK, `${name}-bf16-trace${chunk.join("")}.safetensors`);
    await cliOk(["logits", folder, "--ids", ids.join(","), "--trace", "-o", traceOut]);

    const reference = new ReferenceSession(model.environment).step(model.program("trace", "bf16"), [{ sequence: 0, ids }]);
    const traced = await readAll(traceOut);
    const rows = Math.min(
      agreeingRows(model, (tensor) => traced.get(tensor)),
      agreeingRows(model, (tensor) => reference[tensor]?.data),
    );
    expect(rows).toBeGreaterThan(0);

    const golden = model.golden.get("logits") as Float32Array;
    const kept = (golden.length / ids.length) * rows;
    const found = (await readFloats(out, "logits")).data;
    const error = nmse(found.slice(0, kept), golden.slice(0, kept));
    const referenceError = nmse(Array.from(reference.logits?.data as ArrayLike<number>).slice(0, kept), golden.slice(0, kept));
    expect(error).toBeLessThan(LIMIT);
    expect(error).toBeLessThan(OVER_REFERENCE * referenceError);

    expectGreedy(model, (await readIntegers(out, "greedy_ids")).data);
  });
});

async function readAll(file: string): Promise<Map<string, ArrayLike<number>>> {
  const tensors = new Map<string, ArrayLike<number>>();
  for (const [name, { dtype }] of (await readSafetensorsHeader(file)).tensors) {
    tensors.set(name, dtype === "F32" ? (await readFloats(file, name)).data : Array.from((await readIntegers(file, name)).data, Number));
  }
  return tensors;
}

/** Rows before the first token for which another set of experts was chosen; fails where the margin of the f32 choice does not allow that. */
function agreeingRows({ golden, environment }: GoldenModel, found: (tensor: string) => ArrayLike<number> | undefined): number {
  const tokens = (golden.get("input_ids") as ArrayLike<number>).length;
  let rows = tokens;
  for (const [tensor, expected] of golden) {
    const layer = /^router\.(\d+)\.indices$/.exec(tensor)?.[1];
    if (layer === undefined) continue;
    const indices = found(tensor) as ArrayLike<number>;
    const k = expected.length / tokens;
    const logits = golden.get(`router.${layer}.logits`) as ArrayLike<number>;
    const experts = logits.length / tokens;
    const type = { kind: "tensor", dtype: "f32", shape: [experts], encoding: { kind: "plain" }, layout: "row", shard: null } as const;
    const correction = environment.weights(`model.layers.${layer}.mlp.moe_statics.e_score_correction_bias`, type).data;
    for (let t = 0; t < rows; t++) {
      const chosen = (all: ArrayLike<number>) =>
        Array.from(all)
          .slice(t * k, (t + 1) * k)
          .sort((a, b) => a - b);
      if (chosen(indices).join() === chosen(expected).join()) continue;
      expect(margin(Array.from(logits).slice(t * experts, (t + 1) * experts), correction, k), `layer ${layer}, token ${t}`).toBeLessThan(
        MARGIN,
      );
      rows = t;
    }
  }
  return rows;
}

/** Between the last expert that is chosen and the first that is not. */
function margin(logits: readonly number[], correction: ArrayLike<number>, k: number): number {
  const max = Math.max(...logits);
  const exp = logits.map((value) => Math.exp(value - max));
  const sum = exp.reduce((a, b) => a + b, 0);
  const scores = exp.map((value, e) => value / sum + (correction[e] as number)).sort((a, b) => b - a);
  return (scores[k - 1] as number) - (scores[k] as number);
}

function expectGreedy({ golden }: GoldenModel, found: ArrayLike<bigint>): void {
  const expected = golden.get("greedy_ids") as ArrayLike<number>;
  const logits = golden.get("greedy_logits") as Float32Array;
  const vocab = logits.length / expected.length;
  for (let i = 0; i < expected.length; i++) {
    if (Number(found[i]) === expected[i]) continue;
    expect(lead(logits.subarray(i * vocab, (i + 1) * vocab)), `greedy token ${i}`).toBeLessThan(LEAD);
    return;
  }
}
