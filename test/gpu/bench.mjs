/**
 * Times a GPU package as `ernie-compile bench` does, on a machine without the compiler:
 *
 *     node bench.mjs [--decode | --prefill] [--chunks 2048,8192] [--context 8192] <package>...
 *
 * chunks: of prefill, each up to the package's own. context: decode is of one sequence, after a prompt of so many tokens.
 */

import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

let fresh = 0;
function randomIds(count, vocab) {
  let state = (++fresh * 2654435761) >>> 0;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 3 + (state % Math.min(vocab - 3, 90_000));
  });
}

async function timed(engine, ids, tokens, sampling = { temperature: 0, minTokens: tokens }) {
  const start = performance.now();
  let firstMs = 0;
  let count = 0;
  for await (const piece of engine.generate(ids, { maxTokens: tokens, ...sampling })) {
    count += piece.ids.length;
    if (firstMs === 0 && piece.ids.length > 0) firstMs = performance.now() - start;
    if ("finishReason" in piece) return { firstMs, endMs: performance.now() - start, timings: piece.timings, tokens: count };
  }
}

/** Sequences together, their prompts, and tokens after these. */
const DECODES = [1, 4, 16, 64].map((batch) => [batch, 64, 128]);
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

const { values, positionals } = parseArgs({
  options: { decode: { type: "boolean" }, prefill: { type: "boolean" }, chunks: { type: "string", default: "0" }, context: { type: "string" } },
  allowPositionals: true,
});
for (const path of positionals) {
  const { load } = await import(pathToFileURL(join(path, "index.js")).href);
  for (const prefillChunk of values.chunks.split(",").map(Number)) {
    const begin = performance.now();
    const engine = await load({ kvTokens: 64 * 2304, prefillChunk });
    const loaded = performance.now();
    const vocab = engine.info.model.vocabSize;
    const first = await timed(engine, randomIds(16, vocab), 1);
    console.log(`${path}: load ${(loaded - begin).toFixed(0)} ms, first token ${first.endMs.toFixed(1)} ms after; chunks of ${engine.info.prefillChunk}`);
    // Without minTokens, which would have the host look at each row: a made-up model hardly ever draws the end.
    const drawn = await timed(engine, randomIds(64, vocab), 257, { temperature: 0.8, topP: 0.8, seed: 1 });
    console.log(`decode batch 1, drawn with top_p: ${((1000 * (drawn.tokens - 1)) / drawn.timings.decode).toFixed(0)} tok/s over ${drawn.tokens} tokens`);
    const decodes = values.context === undefined ? DECODES : [[1, Number(values.context), 128]];
    for (const [batch, prompt, tokens] of values.prefill ? [] : decodes) {
      const rates = [];
      for (let i = 0; i < 5; i++) {
        const runs = await Promise.all(Array.from({ length: batch }, () => timed(engine, randomIds(prompt, vocab), tokens + 1)));
        const ms = batch === 1 ? runs[0].timings.decode : Math.max(...runs.map((run) => run.endMs)) - Math.max(...runs.map((run) => run.firstMs));
        rates.push((1000 * batch * tokens) / ms);
      }
      console.log(`decode batch ${batch}, after ${prompt} tokens: ${rates.map((rate) => rate.toFixed(0)).join(" ")} tok/s, median ${median(rates).toFixed(0)}`);
    }
    for (const batch of values.decode ? [] : [1, 8]) {
      const [rates, engineMs] = [[], []];
      for (let i = 0; i < 5; i++) {
        const runs = await Promise.all(Array.from({ length: batch }, () => timed(engine, randomIds(2048, vocab), 1)));
        rates.push((1000 * batch * 2048) / Math.max(...runs.map((run) => run.endMs)));
        engineMs.push(Math.max(...runs.map((run) => run.timings.queue + run.timings.prefill)));
      }
      const own = median(engineMs).toFixed(2);
      console.log(`prefill ${batch}x2048: ${rates.map((rate) => rate.toFixed(0)).join(" ")} tok/s, median ${median(rates).toFixed(0)}; the engine's part ${own} ms`);
    }
    await engine.dispose();
  }
}
