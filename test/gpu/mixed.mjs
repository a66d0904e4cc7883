/**
 * Prompts of awkward lengths, each alone and then all together with later ones arriving while earlier ones decode, so that steps mix chunks of prompts with
 * single tokens: node mixed.mjs <package>... . Greedy tokens must be equal but where the two logits are as close as bf16 leaves them. With experts differences
 * are told and not judged: where one is chosen otherwise, logits move by any amount (check.mjs compares rows before that). With --exact, for packages built with
 * --deterministic, every difference is judged, also with experts.
 */

import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const LENGTHS = [1, 5, 63, 64, 65, 127, 129, 500, 1500, 2049, 3000];
const TOKENS = 24;
/** Of the spread of all logits: what bf16 operands move. */
const CLOSE = 0.05;

function prompt(length, vocab) {
  let state = (length * 2654435761) >>> 0;
  return Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 3 + ((state >>> 8) % Math.min(vocab - 3, 90_000));
  });
}

async function answer(engine, ids) {
  const found = [];
  for await (const piece of engine.generate(ids, { maxTokens: TOKENS, minTokens: TOKENS, temperature: 0 })) found.push(...piece.ids);
  return found;
}

const { values, positionals } = parseArgs({ options: { exact: { type: "boolean", default: false } }, allowPositionals: true });
let missed = 0;
for (const path of positionals) {
  const { load } = await import(pathToFileURL(join(path, "index.js")).href);
  // An engine each, since the second would find the first one's prompts in its cache.
  let engine = await load();
  const { vocabSize: vocab, experts } = engine.info.model;
  const lengths = LENGTHS.filter((length) => length + TOKENS < engine.info.maxContext);
  const alone = [];
  for (const length of lengths) alone.push(await answer(engine, prompt(length, vocab)));
  await engine.dispose();
  engine = await load();
  const together = await Promise.all(
    lengths.map(async (length, i) => {
      await new Promise((done) => setTimeout(done, 3 * i));
      return answer(engine, prompt(length, vocab));
    }),
  );
  let equal = 0;
  for (const [i, length] of lengths.entries()) {
    const wrong = alone[i].findIndex((id, at) => id !== together[i][at]);
    if (wrong < 0) {
      equal++;
      continue;
    }
    const { logits } = await engine.logits([...prompt(length, vocab), ...alone[i].slice(0, wrong)]);
    const row = logits.data.subarray((logits.shape[0] - 1) * vocab);
    const mean = row.reduce((sum, value) => sum + value, 0) / vocab;
    const spread = Math.sqrt(row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / vocab);
    const off = Math.abs(row[alone[i][wrong]] - row[together[i][wrong]]) / spread;
    const miss = values.exact || (off > CLOSE && !experts);
    if (miss) missed++;
    console.log(`${miss ? "MISS" : "    "} prompt of ${length}: token ${wrong} differs, ${off.toFixed(4)} of the spread apart`);
  }
  console.log(`${path}: ${equal} of ${lengths.length} prompts have the same ${TOKENS} tokens alone and together`);
  await engine.dispose();
}
process.exit(missed === 0 ? 0 : 1);
