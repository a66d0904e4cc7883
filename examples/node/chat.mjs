// A conversation with a compiled model on the terminal. Each turn computes only what is new: the engine keeps what it has seen.
//
//   npx ernie-compile build examples/models/ernie-mini-moe -o ernie
//   node examples/node/chat.mjs ernie
import { resolve } from "node:path";
import { stdin, stdout } from "node:process";
import { createInterface } from "node:readline/promises";
import { pathToFileURL } from "node:url";

const folder = resolve(process.argv[2] ?? "ernie");
const { load } = await import(pathToFileURL(resolve(folder, "index.js")).href);

const engine = await load();
const input = createInterface({ input: stdin, output: stdout });
try {
  const { model, arch, threads } = engine.info;
  console.log(
    `${model.architecture}, ${(model.parameters / 1e6).toFixed(1)} M parameters, ${arch}, ${threads} threads. An empty line ends.`,
  );
  const messages = [];
  input.setPrompt("> ");
  input.prompt();
  for await (const line of input) {
    if (line.trim() === "") break;
    messages.push({ role: "user", content: line });
    messages.push({ role: "assistant", content: await answer(messages) });
    input.prompt();
  }
} finally {
  input.close();
  await engine.dispose();
}

async function answer(messages) {
  let text = "";
  for await (const piece of engine.chat(messages, { temperature: 0, maxTokens: 200 })) {
    stdout.write(piece.text);
    text += piece.text;
    if ("finishReason" in piece) {
      const { promptTokens, cachedTokens, completionTokens } = piece.usage;
      console.log(`\n  (${promptTokens} prompt tokens, ${cachedTokens} of them cached; ${completionTokens} generated)`);
    }
  }
  return text;
}
