// What a user of a generated package does, by `import`, by `require` and in Worker threads; plain JavaScript that every supported Node runs.
//
//   node program.mjs <package folder> <question> <expected greedy answer>
//
// Ends with 0 by itself once everything is disposed: nothing may keep the process alive.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { isMainThread, Worker, workerData } from "node:worker_threads";

if (isMainThread) {
  const [folder, question, expected] = process.argv.slice(2);
  const esm = await import(pathToFileURL(resolve(folder, "index.js")).href);
  const cjs = createRequire(import.meta.url)(resolve(folder));
  await check("import", esm, question, expected);
  await check("require", cjs, question, expected);
  await Promise.all([1, 2].map(() => inWorker({ folder, question, expected })));
  console.log("two Workers at once: equal answers");
  const left = setTimeout(() => {
    console.error("something keeps the process alive after dispose()");
    process.exit(1);
  }, 10_000);
  left.unref();
} else {
  const { folder, question, expected } = workerData;
  await check("worker", await import(pathToFileURL(resolve(folder, "index.js")).href), question, expected);
}

async function check(how, { load }, question, expected) {
  const engine = await load({ threads: 1 });
  try {
    assert.ok(engine.info.model.vocabSize > 0);
    for (let turn = 0; turn < 2; turn++) assert.equal(await answer(engine, question), expected, `${how}, turn ${turn + 1}`);
    const ids = engine.tokenize(question);
    assert.equal(engine.detokenize(ids), question);
    const { logits } = await engine.logits(ids);
    assert.deepEqual(logits.shape, [ids.length, engine.info.model.vocabSize]);
  } finally {
    await engine.dispose();
    await engine.dispose();
  }
  if (isMainThread) console.log(`${how}: ${JSON.stringify(expected)}`);
}

async function answer(engine, question) {
  let text = "";
  let finish;
  for await (const piece of engine.chat([{ role: "user", content: question }], { temperature: 0, maxTokens: 64 })) {
    text += piece.text;
    if (piece.finishReason) finish = piece;
  }
  assert.equal(finish?.finishReason, "stop");
  assert.ok(finish.usage.completionTokens > 0 && finish.timings.decode >= 0);
  return text;
}

function inWorker(data) {
  return new Promise((done, failed) => {
    const worker = new Worker(fileURLToPath(import.meta.url), { workerData: data });
    worker.on("error", failed);
    worker.on("exit", (code) => (code === 0 ? done() : failed(new Error(`a Worker ended with ${code}`))));
  });
}
