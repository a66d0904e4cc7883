// A process that starts a package and ends: milliseconds of load(), then to the first token of a 16-token prompt, and the memory that it came to hold.
//
//   node bench/start.mjs <package> <threads>      (started by bench/run.mjs; prints one JSON object)

import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

/** Bytes resident now, file pages that are mapped among them. */
function residentBytes() {
  return 1024 * Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "utf8"))[1]);
}

const CONTEXT = 2048;
const bare = residentBytes();
const [folder, threads] = process.argv.slice(2);
const started = performance.now();
const { load } = await import(pathToFileURL(resolve(folder, "index.js")).href);
const engine = await load({ threads: Number(threads), kvTokens: CONTEXT });
const loaded = performance.now();
const prompt = (count) => Array.from({ length: count }, (_, i) => 300 + ((i * 7919) % 90000));
let first = 0;
for await (const piece of engine.generate(prompt(16), { temperature: 0, maxTokens: 4, minTokens: 4 })) {
  if (first === 0 && piece.ids.length > 0) first = performance.now();
}
// All of the cache once, so that its memory counts.
for await (const _ of engine.generate(prompt(CONTEXT - 8), { temperature: 0, maxTokens: 4, minTokens: 4 }));
const resident = residentBytes() - bare;
await engine.dispose();
console.log(JSON.stringify({ load: loaded - started, first: first - loaded, resident }));
