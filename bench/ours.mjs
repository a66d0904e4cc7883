// A child process that measures a package on request, as bench/peers/llama.mjs does its peer: { kind: "pp" | "tg", tokens, batch? } -> tokens per second.
//
//   node bench/ours.mjs <package> <threads>      (started by bench/run.mjs)

import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, threads] = process.argv.slice(2);
const { load } = await import(pathToFileURL(resolve(folder, "index.js")).href);
const engine = await load({ threads: Number(threads) });
let round = 0;

function ids(count) {
  round++;
  return Array.from({ length: count }, (_, i) => 300 + ((i * 7919 + round * 104729) % 90000));
}

async function generate(prompt, tokens) {
  const start = performance.now();
  let first = 0;
  for await (const piece of engine.generate(prompt, { temperature: 0, maxTokens: tokens, minTokens: tokens })) {
    if (first === 0 && piece.ids.length > 0) first = performance.now() - start;
    if ("finishReason" in piece) return { ...piece.timings, first, end: performance.now() - start };
  }
}

async function measure({ kind, tokens, batch = 1 }) {
  if (kind === "pp") return (1000 * tokens) / (await generate(ids(tokens), 1)).prefill;
  const runs = await Promise.all(Array.from({ length: batch }, () => generate(ids(1), tokens + 1)));
  const ms = batch === 1 ? runs[0].decode : Math.max(...runs.map((run) => run.end)) - Math.max(...runs.map((run) => run.first));
  return (1000 * batch * tokens) / ms;
}

process.on("message", async (request) => {
  if (request === "end") {
    await engine.dispose();
    process.exit(0);
  }
  process.send(await measure(request));
});
process.send("ready");
