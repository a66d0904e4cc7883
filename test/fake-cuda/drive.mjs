/** Runs a GPU package over the stand-in driver in a process of its own, and prints what came of it as one JSON object: drive.mjs <package> <case>. */

import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, what] = process.argv.slice(2);
const { load } = await import(pathToFileURL(join(folder, "index.js")).href);

async function collect(pieces) {
  const ids = [];
  for await (const piece of pieces) ids.push(...piece.ids);
  return ids;
}

const failure = (error) => ({ error: { code: error.code, kind: error.kind, message: error.summary ?? error.message, hint: error.hint ?? null } });
const attempt = (work) => work.then((value) => ({ value }), failure);

const cases = {
  /** Everything that goes well. */
  async works(engine) {
    const greedy = { temperature: 0, maxTokens: 12 };
    const alone = await collect(engine.generate([5, 6, 7], greedy));
    const together = await Promise.all([1, 2, 3, 4, 5, 6].map((id) => collect(engine.generate([9, 8, id], greedy))));
    const sampled = await attempt(collect(engine.generate([5, 6, 7], { temperature: 1, seed: 1, maxTokens: 4 })));
    const { logits, trace } = await engine.logits([5, 6, 7], { trace: true });
    const long = await collect(engine.generate(Array.from({ length: 150 }, (_, i) => i % 40), greedy));
    // Its start is another one's, up to the middle of a block.
    const shared = await collect(engine.generate([...Array.from({ length: 100 }, (_, i) => i % 40), 3], greedy));
    return { alone, together, sampled, logits: logits.shape, traced: Object.keys(trace).length, long, shared, info: engine.info };
  },
  /** Something may fail in the middle. */
  async generates(engine) {
    const greedy = { temperature: 0, maxTokens: 40 };
    const many = Array.from({ length: 100 }, (_, i) => 10 + (i % 40));
    const first = await Promise.all([many, [1, 2]].map((prompt) => attempt(collect(engine.generate(prompt, greedy)))));
    const second = await attempt(collect(engine.generate([5, 6, 7], greedy)));
    const logits = await attempt(engine.logits([1, 2, 3]).then(({ logits: { shape } }) => shape));
    return { first, second, logits };
  },
  /** Two engines on one GPU, of which one goes first. */
  async twice(engine) {
    const other = await load();
    const greedy = { temperature: 0, maxTokens: 5 };
    const both = await Promise.all([engine, other].map((one) => collect(one.generate([5, 6, 7], greedy))));
    await other.dispose();
    return { both, after: await collect(engine.generate([5, 6, 7], greedy)) };
  },
  /** Ends while a step runs. */
  async cancels(engine) {
    const controller = new AbortController();
    const running = attempt(collect(engine.generate([5, 6, 7], { temperature: 0, maxTokens: 200, signal: controller.signal })));
    const other = attempt(collect(engine.generate([5, 6, 7], { temperature: 0, maxTokens: 200 })));
    controller.abort();
    const cancelled = await running;
    await engine.dispose();
    return { cancelled, other: await other };
  },
  /** Beside requests that go on as if nothing had been. */
  async profiles(engine) {
    const running = collect(engine.generate([5, 6, 7], { temperature: 0, maxTokens: 40 }));
    const decode = await attempt(engine.profile({ batch: 3, context: 70 }));
    const prefill = await attempt(engine.profile({ rows: 20 }));
    const refused = await Promise.all([{ batch: 5 }, { rows: 0 }, { context: 1000 }, { rows: 8, context: 7 }].map((ask) => attempt(engine.profile(ask))));
    return { decode, prefill, refused, ids: await running, after: await collect(engine.generate([5, 6, 7], { temperature: 0, maxTokens: 5 })) };
  },
  async exits(engine) {
    void attempt(collect(engine.generate([5, 6, 7], { temperature: 0, maxTokens: 200 })));
    process.exit(0);
  },
};

const loaded = await attempt(load(["works", "profiles"].includes(what) ? { kvTokens: 512 } : {}));
if (loaded.error) {
  console.log(JSON.stringify({ load: loaded }));
} else {
  const result = await attempt(cases[what](loaded.value));
  await loaded.value.dispose();
  console.log(JSON.stringify({ result, alive: true }));
}
