// `await using`, which Node parses from 24 on.
//
//   node await-using.mjs <package folder> <question> <expected greedy answer>
import assert from "node:assert/strict";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, question, expected] = process.argv.slice(2);
const { load } = await import(pathToFileURL(resolve(folder, "index.js")).href);
let kept;
{
  await using engine = await load({ threads: 1 });
  kept = engine;
  let text = "";
  for await (const piece of engine.chat([{ role: "user", content: question }], { temperature: 0, maxTokens: 64 })) text += piece.text;
  assert.equal(text, expected);
}
assert.throws(() => kept.tokenize("after the block"), "the engine is disposed at the end of its block");
console.log(`await using: ${JSON.stringify(expected)}`);
