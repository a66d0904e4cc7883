// The first five minutes: compiles the small trained MoE model that ships with the project, lets it recite a poem, and says where to look next.
//
//   npm run demo
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { execa } from "execa";

const QUESTION = "背誦李白《靜夜思》";
const root = fileURLToPath(new URL("../", import.meta.url));
const model = join(root, "examples", "models", "ernie-mini-moe");
const out = join(root, "demo-out");
const seconds = (since) => `${((performance.now() - since) / 1000).toFixed(2)} s`;

const command = [join(root, "dist", "cli", "main.js"), "build", model, "-o", out];
console.log(`$ ernie-compile build ${shown(model)} -o ${shown(out)}`);
let start = performance.now();
try {
  await execa(process.execPath, command, { stdio: "inherit", timeout: 300_000 });
} catch (error) {
  console.error(error.shortMessage);
  process.exit(1);
}
console.log(`compiled in ${seconds(start)}\n`);

start = performance.now();
const { load } = await import(pathToFileURL(join(out, "index.js")).href);
const engine = await load();
try {
  console.log(`loaded in ${seconds(start)}: ${describe(engine.info)}\n`);
  console.log(`> ${QUESTION}`);
  for await (const piece of engine.chat([{ role: "user", content: QUESTION }], { temperature: 0, maxTokens: 64 })) {
    process.stdout.write(piece.text);
    if ("finishReason" in piece) console.log(`\n\n${speed(piece)}\n`);
  }
} finally {
  await engine.dispose();
}
showFiles();

function describe({ model: facts, arch, activations, threads }) {
  return `${(facts.parameters / 1e6).toFixed(1)} M parameters, ${facts.layers} layers, ${arch}, ${activations} activations, ${threads} threads`;
}

function speed({ usage, timings }) {
  const rate = (tokens, ms) => (ms > 0 && tokens > 0 ? ` (${Math.round((1000 * tokens) / ms)} tokens/s)` : "");
  const prefill = `${usage.promptTokens} prompt tokens in ${timings.prefill.toFixed(1)} ms${rate(usage.promptTokens, timings.prefill)}`;
  const decode = `${usage.completionTokens} generated in ${timings.decode.toFixed(1)} ms${rate(usage.completionTokens - 1, timings.decode)}`;
  return `${prefill}, ${decode}`;
}

function showFiles() {
  const { build } = JSON.parse(readFileSync(join(out, "manifest.json"), "utf8"));
  const kernels = readdirSync(join(out, build, "kernels")).filter((name) => name.endsWith(".cpp"));
  const rows = [
    ["index.js", "the bindings; index.d.ts has this model's own types"],
    ["manifest.json", "what was built, for what, from what"],
    [`${build}/kernels/`, `${kernels.length} generated kernels, such as ${kernels.find((name) => /swiglu|moe/.test(name)) ?? kernels[0]}`],
    [`${build}/src/plan.cpp`, "which kernel runs when, on which memory"],
    [`${build}/include/ern.h`, "the C interface; examples/c uses it"],
    [`${build}/lib/`, "the compiled library and the Node addon"],
    [`${build}/weights.safetensors`, "the weights, packed as the kernels read them"],
  ];
  console.log(`${shown(out)}/`);
  for (const [file, what] of rows)
    if (existsSync(join(out, file))) console.log(`  ${file.padEnd(34)} ${size(join(out, file)).padStart(8)}  ${what}`);
  console.log(`\nNext: node examples/node/chat.mjs ${shown(out)}`);
}

function size(path) {
  const stats = statSync(path);
  if (stats.isDirectory()) return "";
  const bytes = stats.size;
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function shown(path) {
  return relative(process.cwd(), path) || ".";
}
