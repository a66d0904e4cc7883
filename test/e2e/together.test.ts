/**
 * Many requests in one engine: a pool too small for all, small blocks and chunks, one cancelled, one reader that stalls. With `deterministic` each
 * continuation equals its solo run, and every block comes back.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, it } from "vitest";
import type { Engine, LoadOptions } from "../../src/host/api.js";
import { buildPackage, MODELS } from "./support.js";

interface Expected {
  greedy: { prompt_ids: number[]; output_ids: number[] }[];
}

describe.each(["ernie-mini-dense", "ernie-mini-moe"])("%s", (name) => {
  it("gives each request what it gets alone", async () => {
    const model = join(MODELS, name);
    const { greedy } = JSON.parse(readFileSync(join(model, "expected.json"), "utf8")) as Expected;
    const folder = await buildPackage(
      model,
      "--deterministic",
      "--block-size",
      "16",
      "--prefill-chunk",
      "7",
      "--max-batch",
      "4",
      "--max-context",
      "160",
      "--kv-tokens",
      "256",
    );
    const { load } = (await import(pathToFileURL(join(folder, "index.js")).href)) as { load: (options?: LoadOptions) => Promise<Engine> };
    const engine = await load();
    try {
      const free = engine.info.kvFreeBlocks;
      const solo: number[][] = [];
      for (const { prompt_ids, output_ids } of greedy) solo.push(await run(engine, prompt_ids, output_ids.length));
      const seed = 1 + (Date.now() % 1e6);
      const random = generator(seed);
      const together = await Promise.all([
        ...greedy.map(async ({ prompt_ids, output_ids }) => {
          await pause(random() * 60);
          return run(engine, prompt_ids, output_ids.length);
        }),
        cancelAfter(engine, greedy[0]?.prompt_ids as number[], 3),
      ]);
      expect(together.slice(0, greedy.length), `seed ${seed}`).toEqual(solo);

      // One reader stalls for a while; the others go on and end first.
      const order: string[] = [];
      const [first, second] = greedy as [Expected["greedy"][number], Expected["greedy"][number]];
      const stalled = run(engine, first.prompt_ids, first.output_ids.length, 300).then((ids) => {
        order.push("stalled");
        return ids;
      });
      const quick = run(engine, second.prompt_ids, second.output_ids.length).then((ids) => {
        order.push("quick");
        return ids;
      });
      expect(await Promise.all([stalled, quick])).toEqual([solo[0], solo[1]]);
      expect(order).toEqual(["quick", "stalled"]);
      await pause(100);
      expect(engine.info.kvFreeBlocks).toBe(free);
    } finally {
      await engine.dispose();
    }
  });
});

/** Greedy ids; the reader rests `rest` ms after its first piece. */
async function run(engine: Engine, prompt: readonly number[], tokens: number, rest = 0): Promise<number[]> {
  const ids: number[] = [];
  let rested = rest === 0;
  for await (const piece of engine.generate(prompt, { temperature: 0, maxTokens: tokens })) {
    ids.push(...piece.ids);
    if (rested) continue;
    rested = true;
    await pause(rest);
  }
  return ids;
}

async function cancelAfter(engine: Engine, prompt: readonly number[], tokens: number): Promise<number[]> {
  const ids: number[] = [];
  for await (const piece of engine.generate(prompt, { temperature: 0, maxTokens: 60, minTokens: 60 })) {
    ids.push(...piece.ids);
    if (ids.length >= tokens) break;
  }
  return ids;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Random numbers in [0, 1) from a seed, which the failure message names. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
