/**
 * The two small trained models: every continuation of expected.json and the held-out text, through the package's own JavaScript. With f32 activations
 * every token is reproduced; with bf16 up to a place where the two best f32 logits lie within 0.1, judged by the f32 package.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, it } from "vitest";
import type { Engine } from "../../src/host/api.js";
import { buildPackage, cliOk, lead, MODELS } from "./support.js";

interface Expected {
  held_out: { nll_per_token: number; tokens: number };
  greedy: { user?: string; prompt_ids: number[]; output_ids: number[]; text: string }[];
}

const NLL_LIMIT = 1e-3;
const LEAD = 0.1;

describe.each(["ernie-mini-dense", "ernie-mini-moe"])("%s", (name) => {
  const model = join(MODELS, name);
  const expected = JSON.parse(readFileSync(join(model, "expected.json"), "utf8")) as Expected;

  it("reproduces every continuation in f32, from ids and as chat", async () => {
    await withEngine(await buildPackage(model, "--activations", "f32"), async (engine) => {
      expect(expected.greedy.length).toBeGreaterThan(10);
      for (const { user, prompt_ids, output_ids, text } of expected.greedy) {
        const limit = { temperature: 0, maxTokens: output_ids.length };
        expect((await collect(engine.generate(prompt_ids, limit))).ids).toEqual(output_ids);
        if (user === undefined) continue;
        const answer = await collect(engine.chat([{ role: "user", content: user }], limit));
        expect(answer).toEqual({ ids: output_ids, text });
      }
    });
  });

  it("reproduces them in bf16 up to a close call", async () => {
    const exact = await buildPackage(model, "--activations", "f32");
    await withEngine(await buildPackage(model), async (engine) => {
      for (const { prompt_ids, output_ids } of expected.greedy) {
        const { ids } = await collect(engine.generate(prompt_ids, { temperature: 0, maxTokens: output_ids.length }));
        const wrong = output_ids.findIndex((id, i) => id !== ids[i]);
        if (wrong < 0) continue;
        await withEngine(exact, async (f32) => {
          const { logits } = await f32.logits([...prompt_ids, ...output_ids.slice(0, wrong)]);
          const [rows = 0, vocab = 0] = logits.shape;
          expect(lead((logits.data as Float32Array).subarray((rows - 1) * vocab)), `token ${wrong}`).toBeLessThan(LEAD);
        });
      }
    });
  });

  it.each(["f32", "bf16"])("held-out text, %s", async (activations) => {
    const folder = await buildPackage(model, ...(activations === "f32" ? ["--activations", "f32"] : []));
    const { stdout } = await cliOk(["eval", folder, "--data", join(model, "held_out.jsonl"), "--json"]);
    const result = JSON.parse(stdout) as { nllPerToken: number; tokens: number; documents: number };
    expect(result.tokens).toBe(expected.held_out.tokens);
    expect(Math.abs(result.nllPerToken / expected.held_out.nll_per_token - 1)).toBeLessThan(NLL_LIMIT);
  });
});

async function withEngine(folder: string, work: (engine: Engine) => Promise<void>): Promise<void> {
  const { load } = (await import(pathToFileURL(join(folder, "index.js")).href)) as { load: () => Promise<Engine> };
  const engine = await load();
  try {
    await work(engine);
  } finally {
    await engine.dispose();
  }
}

async function collect(pieces: AsyncIterable<{ text: string; ids: number[] }>): Promise<{ ids: number[]; text: string }> {
  const all = { ids: [] as number[], text: "" };
  for await (const { ids, text } of pieces) {
    all.ids.push(...ids);
    all.text += text;
  }
  return all;
}
