/**
 * Holds GPU packages to the goldens and the mini models, on a machine that has nothing but Node, the packages and this file (scripts/test-gpu-models.mjs lays them out):
 *
 *     node check.mjs <folder>        <folder>/goldens/<name>/{package,golden.json,golden.safetensors}, <folder>/mini/<name>/{package,expected.json}
 *
 * Besides: triton/ as goldens, with many-row products in Triton; deterministic/ as mini, bit for bit in any batch; pairs/<name>/{first,second}, two packages of one model.
 * Bars are those of bf16 activations (test/e2e/goldens-bf16.test.ts). Prints a line a check and ends with 1 if one is missed.
 */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const LIMIT = 5e-4;
const LEAD = 0.1;
const NLL_LIMIT = 1e-3;
const [folder] = process.argv.slice(2);
let missed = 0;

function report(ok, text) {
  if (!ok) missed++;
  console.log(`${ok ? "ok  " : "MISS"} ${text}`);
}

/** Tensors of a safetensors file of f32 and integers. */
function readTensors(path) {
  const bytes = readFileSync(path);
  const length = Number(bytes.readBigUInt64LE(0));
  const tensors = new Map();
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(JSON.parse(bytes.subarray(8, 8 + length)))) {
    if (name === "__metadata__") continue;
    const part = Uint8Array.prototype.slice.call(bytes, 8 + length + data_offsets[0], 8 + length + data_offsets[1]).buffer;
    const types = { F32: Float32Array, I32: Int32Array, I64: BigInt64Array };
    if (types[dtype]) tensors.set(name, { shape, data: Array.from(new types[dtype](part), Number) });
  }
  return tensors;
}

function nmse(found, expected) {
  let error = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    error += (found[i] - expected[i]) ** 2;
    norm += expected[i] ** 2;
  }
  return error / norm;
}

function lead(logits) {
  const [first, second] = Float64Array.from(logits).sort().reverse();
  return first - second;
}

async function withEngine(path, work) {
  const { load } = await import(pathToFileURL(join(path, "index.js")).href);
  const engine = await load();
  try {
    return await work(engine);
  } finally {
    await engine.dispose();
  }
}

async function collect(pieces) {
  const ids = [];
  for await (const piece of pieces) ids.push(...piece.ids);
  return ids;
}

/** Rows before the first token for which other experts were chosen. */
function agreeingRows(golden, trace, tokens) {
  let rows = tokens;
  for (const [name, { data }] of golden) {
    if (!/^router\.\d+\.indices$/.test(name)) continue;
    const k = data.length / tokens;
    const chosen = (all, t) => Array.from(all).slice(t * k, (t + 1) * k).sort((a, b) => a - b).join();
    for (let t = 0; t < rows; t++) if (chosen(trace[name].data, t) !== chosen(data, t)) rows = t;
  }
  return rows;
}

async function checkGolden(path) {
  const golden = readTensors(join(path, "golden.safetensors"));
  const ids = golden.get("input_ids").data;
  await withEngine(join(path, "package"), async (engine) => {
    const { trace } = await engine.logits(ids, { trace: true });
    const rows = agreeingRows(golden, trace, ids.length);
    for (const [name, { data }] of golden) {
      if (!trace[name] || !/^(hidden|router.*logits|final_norm)/.test(name)) continue;
      const kept = (data.length / ids.length) * rows;
      console.log(`     ${name} ${nmse(trace[name].data.subarray(0, kept), data.slice(0, kept)).toExponential(2)}`);
    }
    for (const chunk of [undefined, 7, 1]) {
      const { logits, greedy } = await engine.logits(ids, { greedy: 8, ...(chunk ? { chunk } : {}) });
      const expected = golden.get("logits").data;
      const kept = (expected.length / ids.length) * rows;
      const error = nmse(logits.data.subarray(0, kept), expected.slice(0, kept));
      const wanted = golden.get("greedy_ids").data;
      const wrong = wanted.findIndex((id, i) => greedy.ids.data[i] !== id);
      const all = golden.get("greedy_logits").data;
      const vocab = all.length / wanted.length;
      const close = wrong < 0 ? 0 : lead(all.slice(wrong * vocab, (wrong + 1) * vocab));
      report(error < LIMIT && close < LEAD, `${path.split("/").at(-1)} chunk ${chunk ?? "-"}: logits ${error.toExponential(2)} over ${rows} of ${ids.length} rows, greedy ${wrong < 0 ? "equal" : `differs at ${wrong}, lead ${close.toFixed(3)}`}`);
    }
  });
}

async function checkMini(path) {
  const expected = JSON.parse(readFileSync(join(path, "expected.json"), "utf8"));
  await withEngine(join(path, "package"), async (engine) => {
    let equal = 0;
    for (const { prompt_ids, output_ids } of expected.greedy) {
      const ids = await collect(engine.generate(prompt_ids, { temperature: 0, maxTokens: output_ids.length }));
      const wrong = output_ids.findIndex((id, i) => id !== ids[i]);
      if (wrong < 0) {
        equal++;
        continue;
      }
      const { logits } = await engine.logits([...prompt_ids, ...output_ids.slice(0, wrong)]);
      const [rows, vocab] = logits.shape;
      const close = lead(logits.data.subarray((rows - 1) * vocab));
      // Judged by the bf16 logits themselves, which may be off by as much again.
      report(close < 2 * LEAD, `${path.split("/").at(-1)}: token ${wrong} differs, lead ${close.toFixed(3)}`);
    }
    report(true, `${path.split("/").at(-1)}: ${equal} of ${expected.greedy.length} continuations equal`);
    const together = await Promise.all(
      expected.greedy.map(({ prompt_ids, output_ids }) => collect(engine.generate(prompt_ids, { temperature: 0, maxTokens: output_ids.length }))),
    );
    const same = together.filter((ids, i) => ids.join() === expected.greedy[i].output_ids.join()).length;
    report(same >= equal - 1, `${path.split("/").at(-1)}: ${same} equal when all run together`);
    // Drawn on the device; the same again from the same seed, and other tokens from another.
    const drawn = (seed) => collect(engine.generate(expected.greedy[0].prompt_ids, { temperature: 3, topP: 0.99, seed, maxTokens: 48 }));
    const [first, again, other] = [await drawn(1), await drawn(1), await drawn(2)];
    report(first.length > 0 && first.join() === again.join() && first.join() !== other.join(), `${path.split("/").at(-1)}: ${first.length} tokens drawn`);
    let sum = 0;
    let tokens = 0;
    for (const line of readFileSync(join(path, "held_out.jsonl"), "utf8").trim().split("\n")) {
      const { ids } = JSON.parse(line);
      const { logits } = await engine.logits(ids.slice(0, -1));
      const vocab = logits.shape[1];
      for (let i = 0; i + 1 < ids.length; i++) {
        const row = logits.data.subarray(i * vocab, (i + 1) * vocab);
        let most = -Infinity;
        for (const value of row) most = Math.max(most, value);
        let total = 0;
        for (const value of row) total += Math.exp(value - most);
        sum += Math.log(total) + most - row[ids[i + 1]];
        tokens++;
      }
    }
    const off = sum / tokens / expected.held_out.nll_per_token - 1;
    report(tokens === expected.held_out.tokens && Math.abs(off) < NLL_LIMIT, `${path.split("/").at(-1)}: held-out nll ${(sum / tokens).toFixed(5)}, off by ${off.toExponential(2)}`);
  });
}

/** Log probabilities of each token, bit for bit: alone, in batches of all sizes, and beside prompts that are prefilled meanwhile. */
async function checkDeterministic(path) {
  const { greedy } = JSON.parse(readFileSync(join(path, "expected.json"), "utf8"));
  await withEngine(join(path, "package"), async (engine) => {
    const run = async ({ prompt_ids }, delay = 0) => {
      await new Promise((resolve) => setTimeout(resolve, delay));
      const found = [];
      for await (const { ids, logprobs } of engine.generate(prompt_ids, { temperature: 0, maxTokens: 24, minTokens: 24, logprobs: 0 }))
        ids.forEach((id, i) => found.push(`${id} ${logprobs?.[i]?.logprob}`));
      return found.join();
    };
    const alone = [];
    for (const prompt of greedy) alone.push(await run(prompt));
    for (const batch of [2, 3, 8, 16, 33, 64]) {
      const together = await Promise.all(Array.from({ length: batch }, (_, i) => run(greedy[i % greedy.length], (i % 5) * 2)));
      const other = together.filter((found, i) => found !== alone[i % greedy.length]).length;
      report(other === 0, `${path.split("/").at(-1)} deterministic, ${batch} together: ${batch - other} as alone`);
    }
  });
}

/** Two packages of one model that compute it in different ways, on made-up weights: the same tokens, up to choices that are close. */
async function checkPair(path) {
  const prompts = Array.from({ length: 8 }, (_, i) => Array.from({ length: 40 + 60 * i }, (_, k) => 5 + ((k * 37 + i * 101) % 9000)));
  const runs = (place) =>
    withEngine(place, (engine) => Promise.all(prompts.map((prompt) => collect(engine.generate(prompt, { temperature: 0, maxTokens: 24, minTokens: 24 })))));
  const [first, second] = [await runs(join(path, "first")), await runs(join(path, "second"))];
  await withEngine(join(path, "first"), async (engine) => {
    for (const [i, prompt] of prompts.entries()) {
      const at = first[i].findIndex((id, k) => id !== second[i][k]);
      let text = "equal";
      let close = 0;
      if (at >= 0) {
        const { logits } = await engine.logits([...prompt, ...first[i].slice(0, at)]);
        close = lead(logits.data.subarray((logits.shape[0] - 1) * logits.shape[1]));
        text = `differ at ${at}, lead ${close.toFixed(4)}`;
      }
      report(close < LEAD, `${path.split("/").at(-1)}, ${prompt.length} tokens: ${text}`);
    }
  });
}

const KINDS = { goldens: checkGolden, triton: checkGolden, mini: checkMini, deterministic: checkDeterministic, pairs: checkPair };
for (const [kind, check] of Object.entries(KINDS)) {
  for (const name of readdirSync(join(folder, kind)).sort()) {
    try {
      await check(join(folder, kind, name));
    } catch (error) {
      report(false, `${name}: ${error.stack ?? error}`);
    }
  }
}
process.exit(missed === 0 ? 0 : 1);
