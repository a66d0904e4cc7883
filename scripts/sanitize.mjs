// Sanitizers: the native tests again with them compiled in, and a whole package, kernels and all, that answers a question through its C interface.
//
//   npm run test:sanitize [-- address|thread]         needs `npm run build` first
//
// address: memory and undefined behaviour, in everything native. thread: data races, in the engine and in a package's team of threads.
// Tests read SANITIZE when they compile (test/native/build-native.ts); a package is built by a compiler that adds the flags, with a cache of its own.
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";

const RUNS = {
  // engine.test.ts builds and runs its own variants with these sanitizers in the plain suite.
  address: {
    sanitize: "address,undefined",
    tests: ["test/native/tokenizer.test.ts", "test/native/kernels.test.ts", "test/weights/pack.test.ts"],
  },
  thread: { sanitize: "thread", tests: ["test/native/engine.test.ts"] },
};
const QUESTION = "背誦李白《靜夜思》";

const root = fileURLToPath(new URL("../", import.meta.url));
const cxx = process.env.CXX ?? "g++";

const [only] = process.argv.slice(2);
if (only !== undefined && !Object.hasOwn(RUNS, only)) {
  console.error(`found ${JSON.stringify(only)}, expected ${Object.keys(RUNS).join(" or ")}`);
  process.exit(2);
}
try {
  for (const [name, run] of Object.entries(RUNS)) {
    if (only !== undefined && name !== only) continue;
    await nativeTests(name, run);
    await wholePackage(name, run.sanitize);
  }
} catch (error) {
  console.error(error.shortMessage ?? error.message);
  process.exit(1);
}

async function nativeTests(name, { sanitize, tests }) {
  const present = tests.filter((path) => existsSync(join(root, path)));
  if (present.length === 0) return;
  console.log(`-fsanitize=${sanitize}: ${present.join(" ")}`);
  const vitest = join(root, "node_modules", "vitest", "vitest.mjs");
  const env = { SANITIZE: sanitize, REPORT: `sanitize-${name}` };
  await execa(process.execPath, [vitest, "run", ...present], { cwd: root, env, stdio: "inherit", timeout: 1_200_000 });
}

async function wholePackage(name, sanitize) {
  const folder = join(root, "build", "sanitize", name);
  mkdirSync(folder, { recursive: true });
  const model = join(root, "examples", "models", "ernie-mini-moe");
  const out = join(folder, "ernie");
  const compiler = join(folder, "c++");
  const flags = `-fsanitize=${sanitize} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1 -O1`;
  writeFileSync(compiler, `#!/bin/sh\nexec ${cxx} "$@" ${flags}\n`);
  chmodSync(compiler, 0o755);

  console.log(`-fsanitize=${sanitize}: a package of ernie-mini-moe`);
  const cli = join(root, "dist", "cli", "main.js");
  // f32: what expected.json holds, token by token.
  const build = ["build", model, "-o", out, "--activations", "f32", "--cxx", compiler];
  // The packer runs during the build and leaks nothing worth a report: it ends when it is done.
  const env = { ERNIE_COMPILE_CACHE: join(folder, "cache"), ASAN_OPTIONS: "detect_leaks=0" };
  await execa(process.execPath, [cli, ...build], { cwd: root, env, stdio: "inherit", timeout: 900_000 });

  const { build: current } = JSON.parse(readFileSync(join(out, "manifest.json"), "utf8"));
  const library = join(out, current, "lib");
  const program = join(folder, "ask");
  const source = ["-x", "c", join(root, "examples", "c", "main.c"), "-x", "none", join(library, "libern_model.so")];
  const cFlags = ["-std=c11", `-I${join(out, current, "include")}`, `-Wl,-rpath,${library}`, "-pthread"];
  await execa(cxx.replace("g++", "gcc").replace("clang++", "clang"), [...cFlags, ...flags.split(" "), ...source, "-o", program], {
    timeout: 120_000,
  });
  const { stdout } = await execa(program, [out, QUESTION], { stderr: "inherit", timeout: 300_000 });
  const { greedy } = JSON.parse(readFileSync(join(model, "expected.json"), "utf8"));
  const expected = greedy.find(({ user }) => user === QUESTION).text;
  if (stdout !== expected) throw new Error(`found ${JSON.stringify(stdout)}, expected ${JSON.stringify(expected)}`);
  console.log(`-fsanitize=${sanitize}: ${JSON.stringify(stdout)}`);
}
