// The process that runs one package while choices above a kernel are tuned (src/tune/local-steps.ts). It speaks as tune.cpp does, of one variant:
//
//   node tune_step.mjs <package> <op> <rows>
//   check 0 <seed> <in> <out>   answers to prompts of that seed, as JSON in <out>: what was generated, and how probable
//   time <rounds> 0             nanoseconds of each round: of one decode step, of a prompt, of a request
//
// op: step_decode, `rows` sequences at once; step_prefill, a prompt of `rows` tokens; step_request, the same and what is generated after it.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

/** Of a prompt before decode steps, which are as many. */
const CONTEXT = 64;
const STEPS = 32;
/** Generated where answers are compared. */
const COMPARED = 12;
const LOGPROBS = 8;

const [folder, op, count] = process.argv.slice(2);
const rows = Number(count);

function say(line) {
  process.stdout.write(`${line}\n`);
}

let engine;
try {
  const { load } = await import(pathToFileURL(join(folder, "index.js")).href);
  engine = await load();
} catch (error) {
  say(`error ${String(error.message).replaceAll("\n", " ")}`);
  process.exit(1);
}
const { vocabSize } = engine.info.model;

/** No two prompts begin alike: the cache of an earlier one is of no use. */
function prompt(length, seed) {
  let state = seed >>> 0;
  return Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 3 + ((state >>> 8) % (vocabSize - 3));
  });
}

async function generate(ids, tokens, logprobs) {
  const start = performance.now();
  const answer = { ids: [], tops: [] };
  let first = 0;
  const options = { temperature: 0, maxTokens: tokens, minTokens: tokens, ...(logprobs ? { logprobs } : {}) };
  for await (const piece of engine.generate(ids, options)) {
    if (first === 0 && piece.ids.length > 0) first = performance.now() - start;
    answer.ids.push(...piece.ids);
    for (const { top } of piece.logprobs ?? []) answer.tops.push(top.map(({ id, logprob }) => [id, logprob]));
    if ("finishReason" in piece) Object.assign(answer, { timings: piece.timings, first, end: performance.now() - start });
  }
  return answer;
}

/** Milliseconds. */
async function time(seed) {
  if (op === "step_prefill") return (await generate(prompt(rows, seed), 1)).timings.prefill;
  if (op === "step_request") return (await generate(prompt(rows, seed), STEPS)).end;
  const runs = await Promise.all(Array.from({ length: rows }, (_, i) => generate(prompt(CONTEXT, seed + 7919 * i), STEPS + 1)));
  const ms = rows === 1 ? runs[0].timings.decode : Math.max(...runs.map(({ end }) => end)) - Math.max(...runs.map(({ first }) => first));
  return ms / STEPS;
}

/** Lengths that are awkward, and the one that is timed. */
async function check(seed) {
  const lengths = op === "step_decode" ? Array.from({ length: rows }, (_, i) => CONTEXT - i) : [rows, Math.floor(rows / 2) + 1, 7];
  const all = lengths.map((length, i) => () => generate(prompt(length, seed + i), COMPARED, LOGPROBS));
  // Sequences of a decode step run together; prompts must not share steps, or their chunks would be others.
  const answers = [];
  if (op === "step_decode") answers.push(...(await Promise.all(all.map((start) => start()))));
  else for (const start of all) answers.push(await start());
  const { logits } = await engine.logits(prompt(8, seed));
  const last = logits.data.subarray(logits.data.length - vocabSize);
  const mean = last.reduce((sum, value) => sum + value, 0) / vocabSize;
  const spread = Math.sqrt(last.reduce((sum, value) => sum + (value - mean) ** 2, 0) / vocabSize);
  return { spread, answers: answers.map(({ ids, tops }) => ({ ids, tops })) };
}

let round = 0;
async function answer(words) {
  // The first run fills caches and page tables.
  if (round === 0) await time(++round);
  if (words[0] === "check") {
    writeFileSync(words[4], JSON.stringify(await check(Number(words[2]))));
    return "checked";
  }
  const times = [];
  for (let i = 0; i < Number(words[1]); i++) times.push(Math.max(1, Math.round(1e6 * (await time(104729 * ++round)))));
  return `times ${op === "step_decode" ? STEPS : 1} ${times.join(" ")}`;
}

say("ready");
for await (const line of createInterface({ input: process.stdin })) {
  try {
    say(await answer(line.split(" ")));
  } catch (error) {
    say(`error ${String(error.message).replaceAll("\n", " ")}`);
  }
}
await engine.dispose();
