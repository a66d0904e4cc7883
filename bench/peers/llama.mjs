// A child process that measures llama.cpp through node-llama-cpp on request: { kind: "pp" | "tg", tokens } -> tokens per second.
//
//   node bench/peers/llama.mjs <model.gguf> <threads>      (started by bench/run.mjs)

import { getLlama, LlamaLogLevel } from "node-llama-cpp";

const [modelPath, threads] = process.argv.slice(2);
const llama = await getLlama({ gpu: false, build: "never", maxThreads: Number(threads), logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({ contextSize: 2048, batchSize: 512, threads: Number(threads) });
const sequence = context.getSequence();
let round = 0;

function ids(count) {
  round++;
  return Array.from({ length: count }, (_, i) => 300 + ((i * 7919 + round * 104729) % 90000));
}

async function measure({ kind, tokens }) {
  await sequence.clearHistory();
  if (kind === "pp") {
    const prompt = ids(tokens);
    const start = performance.now();
    await sequence.evaluateWithoutGeneratingNewTokens(prompt);
    return (1000 * tokens) / (performance.now() - start);
  }
  let count = 0;
  let start = 0;
  for await (const _ of sequence.evaluate(ids(1), { temperature: 0, yieldEogToken: true })) {
    if (count === 0) start = performance.now();
    if (count++ === tokens) break;
  }
  return (1000 * (count - 1)) / (performance.now() - start);
}

process.on("message", async (request) => {
  if (request === "end") process.exit(0);
  process.send(await measure(request));
});
process.send("ready");
