import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readConfig } from "../../src/frontend/config.js";
import { buildProgram } from "../../src/frontend/model.js";
import { resolveWeights } from "../../src/frontend/resolve-weights.js";
import { loadWeights } from "../../src/reference/checkpoint-weights.js";
import { ReferenceSession } from "../../src/reference/session.js";
import { openCheckpoint } from "../../src/weights/checkpoint.js";
import { FORMS, type Form, respell } from "./respell.js";
import { GOLDENS, path } from "./support.js";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ernie-respell-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Logits of a few tokens, through the reference. */
async function logits(model: string): Promise<{ readonly data: number[]; readonly warnings: readonly string[] }> {
  const { config } = await readConfig(join(model, "config.json"));
  const checkpoint = await openCheckpoint(model);
  const weights = resolveWeights(config, checkpoint);
  const bounds = { T: { min: 1, max: 8 }, S: { min: 1, max: 1 }, C: { min: 1, max: 2 } };
  const graph = buildProgram(config, weights, { kind: "score", activations: "f32", bounds });
  const session = new ReferenceSession({ weights: await loadWeights(checkpoint), blockSize: 16 });
  const result = session.step(graph, [{ sequence: 0, ids: [5, 200, 17] }]);
  return { data: Array.from(result.logits?.data ?? []), warnings: weights.warnings.map(({ code }) => code) };
}

/** Only where there are several kv heads can q, k and v be interleaved. */
function expectedWarnings(name: string, form: Form): readonly string[] {
  if (form === "pt-fused") return name === "moe" ? [] : ["weights-qkv-order"];
  return form === "f32" || form === "bare" ? ["weights-rounded"] : [];
}

describe.each(GOLDENS)("%s", (name) => {
  let original: readonly number[] = [];
  beforeAll(async () => {
    original = (await logits(path(`test/goldens/${name}`))).data;
  });

  it.each(FORMS)("%s: the same model, the same logits", async (form) => {
    const target = join(folder, name, form);
    await respell(name, form, target);
    const found = await logits(target);
    expect(found.warnings).toEqual(expectedWarnings(name, form));
    expect(found.data).toHaveLength(original.length);
    // The vectors as f16 may lose a bit; all else is the same to the last one.
    if (form !== "bare") expect(found.data).toEqual(original);
    for (const [i, value] of found.data.entries()) expect(value).toBeCloseTo(original[i] as number, 4);
  });
});
