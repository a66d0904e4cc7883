// Fuzzes what reads foreign files in the runtime: each test/fuzz/<name>_fuzz.cpp, from its kept corpus, under ASan and UBSan.
//
//   npm run test:fuzz [-- <seconds> [<name>...]]      60 s for all together unless told otherwise
//
// New finds go to a copy of the corpus in build/fuzz, never into test/fuzz/corpus. Without a clang++ that has libFuzzer, the kept corpus and small
// changes to it are run once under g++ (test/fuzz/replay.cpp).
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";

const root = fileURLToPath(new URL("../", import.meta.url));
const build = join(root, "build", "fuzz");
const TEXT = ["bpe", "detokenizer", "json", "piece_table", "prefix_matcher", "sentencepiece", "text_config", "tokenizer"];

/** Files of runtime/src that a harness needs, and the longest input that is worth a try. A harness that is not here says `// sources: a.cpp b.cpp`. */
const HARNESSES = {
  json: { sources: ["json", "text_config"], maxLength: 4096 },
  loader: { sources: readdirSync(join(root, "runtime", "src")).filter((name) => name.endsWith(".cpp")), maxLength: 8192 },
  tokenizer: { sources: TEXT, maxLength: 20_000 },
};

const COMMON = ["-std=c++20", "-g", "-O1", "-Wall", "-Wextra", "-pthread", "-Iruntime/src", "-Iruntime/include", "-Iruntime"];
const SANITIZE = ["-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];
/** Where the sanitizers' own checks stop: an allocation that a lying length asked for must fail by our check, not by the machine's memory. */
const LIMITS = ["-timeout=30", "-rss_limit_mb=2048", "-malloc_limit_mb=1024"];

const [secondsText = "60", ...only] = process.argv.slice(2);
const seconds = Number(secondsText);
if (!Number.isFinite(seconds) || seconds < 1) fail(`seconds: found ${JSON.stringify(secondsText)}, expected a number of at least 1`, 2);
const harnesses = findHarnesses().filter(({ name }) => only.length === 0 || only.includes(name));
if (harnesses.length === 0) fail(`no such harness: ${only.join(", ")}`, 2);
mkdirSync(build, { recursive: true });

const clang = await findLibFuzzer();
try {
  if (clang) await fuzz(clang);
  else await replay(process.env.CXX ?? "g++");
} catch (error) {
  fail([error.shortMessage ?? error.stack, error.stderr].filter(Boolean).join("\n"));
}

async function fuzz(compiler) {
  const compile = objectCache(compiler, [...COMMON, ...SANITIZE, "-fsanitize=fuzzer-no-link,address,undefined"]);
  const share = Math.max(1, Math.floor(seconds / harnesses.length));
  for (const harness of harnesses) {
    const program = await link(
      compiler,
      [...SANITIZE, "-fsanitize=fuzzer,address,undefined"],
      harness.name,
      await compile(harness.sources),
    );
    const kept = join(root, "test", "fuzz", "corpus", harness.name);
    const corpus = mkdtempSync(join(tmpdir(), `ern-fuzz-${harness.name}-`));
    const finds = join(build, "finds", harness.name);
    mkdirSync(finds, { recursive: true });
    if (existsSync(kept)) cpSync(kept, corpus, { recursive: true });
    const limits = [`-max_total_time=${share}`, `-max_len=${harness.maxLength}`, ...LIMITS];
    const run = await execa(program, [...limits, "-print_final_stats=1", `-artifact_prefix=${finds}/`, corpus], {
      reject: false,
      all: true,
      // A harness that writes files writes them to memory.
      env: existsSync("/dev/shm") ? { TMPDIR: "/dev/shm" } : {},
      timeout: (share + 120) * 1000,
    });
    const inputs = readdirSync(corpus).length;
    rmSync(corpus, { recursive: true, force: true });
    if (run.exitCode !== 0 && !(await onlySlowOnce(program, run.all ?? "")))
      reportCrash(harness.name, program, run.all ?? run.shortMessage);
    const last = [...run.all.matchAll(/cov: (\d+) ft: (\d+)/g)].at(-1);
    const runs = /stat::number_of_executed_units:\s*(\d+)/.exec(run.all)?.[1] ?? "?";
    console.log(`${harness.name.padEnd(10)} ${share} s, ${runs} runs, ${inputs} inputs, ${last?.[1] ?? "?"} edges: no failure`);
  }
}

async function replay(compiler) {
  console.log(`no clang++ with libFuzzer here: only the kept corpus is run, under ${compiler}'s sanitizers`);
  const flags = [...SANITIZE, "-fsanitize=address,undefined"];
  const compile = objectCache(compiler, [...COMMON, ...flags]);
  for (const harness of harnesses) {
    const program = await link(compiler, flags, `${harness.name}-replay`, await compile([...harness.sources, "test/fuzz/replay.cpp"]));
    const corpus = join(root, "test", "fuzz", "corpus", harness.name);
    const run = await execa(program, [corpus], { reject: false, all: true, timeout: 300_000 });
    if (run.exitCode !== 0) fail(`${run.all ?? run.shortMessage}\nrepeat: ${program} ${corpus}`);
    console.log(`${harness.name.padEnd(10)} ${run.stdout}: no failure`);
  }
}

/** libFuzzer's timeout counts the wall's seconds: on a machine that stood still for a while, an input that is fast alone is no finding. */
async function onlySlowOnce(program, output) {
  const artifact = /Test unit written to (\S*\/timeout-\S+)/.exec(output)?.[1];
  if (!artifact) return false;
  const { exitCode } = await execa(program, ["-timeout=10", artifact], { reject: false, timeout: 60_000 });
  if (exitCode !== 0) return false;
  console.log(`${basename(program)}: cut short by a pause of the machine (${artifact} takes no time alone)`);
  rmSync(artifact);
  return true;
}

function reportCrash(name, program, output) {
  const artifact = /Test unit written to (\S+)/.exec(output)?.[1];
  const lines = output.split("\n");
  const start = Math.max(
    0,
    lines.findIndex((line) => /ERROR: |runtime error: |deadly signal/.test(line)),
  );
  console.error(lines.slice(start, start + 40).join("\n"));
  fail(
    artifact
      ? `${name}: failed\nrepeat: ${program} ${artifact}\nonce it is mended, keep the input: cp ${artifact} test/fuzz/corpus/${name}/`
      : `${name}: failed and left no input\nrepeat: npm run test:fuzz -- ${seconds} ${name}`,
  );
}

function findHarnesses() {
  const folder = join(root, "test", "fuzz");
  const files = readdirSync(folder).filter((file) => file.endsWith("_fuzz.cpp"));
  return files.sort().map((file) => {
    const name = file.replace("_fuzz.cpp", "");
    const listed = /^\/\/ sources: (.+)$/m.exec(readFileSync(join(folder, file), "utf8"))?.[1]?.split(/[\s,]+/);
    const known = HARNESSES[name];
    if (!known && !listed) fail(`test/fuzz/${file} is neither in the table of scripts/fuzz.mjs nor does it say "// sources: a.cpp b.cpp"`);
    const sources = (listed ?? known.sources).filter(Boolean).map((source) => `runtime/src/${basename(source, ".cpp")}.cpp`);
    return { name, maxLength: known?.maxLength ?? 20_000, sources: [...sources, `test/fuzz/${file}`] };
  });
}

/** FUZZ_CXX, or the newest clang++ on the path whose libFuzzer is installed too (Debian packs it apart, as libclang-rt-<version>-dev). */
async function findLibFuzzer() {
  const names = process.env.FUZZ_CXX ? [process.env.FUZZ_CXX] : [...range(25, 14).map((version) => `clang++-${version}`), "clang++"];
  const probe = join(build, "probe.cpp");
  writeFileSync(probe, 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }\n');
  for (const name of names) {
    const flags = ["-fsanitize=fuzzer,address,undefined", probe, "-o", join(build, "probe")];
    const { exitCode } = await execa(name, flags, { reject: false, timeout: 60_000 });
    if (exitCode === 0) return name;
  }
  return undefined;
}

/** Compiles sources to objects named after the hash of flags, source and all headers, two or so at a time. */
function objectCache(compiler, flags) {
  const headers = createHash("sha256");
  for (const file of readdirSync(join(root, "runtime"), { recursive: true }).sort()) {
    if (/\.h(pp)?$/.test(file)) headers.update(file).update(readFileSync(join(root, "runtime", file)));
  }
  const key = headers.update([compiler, ...flags].join("\0")).digest("hex");
  return async (sources) => {
    const pending = [...sources];
    const objects = [];
    const lane = async () => {
      for (let source = pending.shift(); source !== undefined; source = pending.shift()) {
        const hash = createHash("sha256")
          .update(key)
          .update(source)
          .update(readFileSync(join(root, source)));
        const object = join(build, `${basename(source, ".cpp")}-${hash.digest("hex").slice(0, 16)}.o`);
        objects.push(object);
        if (existsSync(object)) continue;
        await execa(compiler, [...flags, "-c", source, "-o", `${object}.${process.pid}`], { cwd: root, timeout: 300_000 });
        renameSync(`${object}.${process.pid}`, object);
      }
    };
    await Promise.all(Array.from({ length: availableParallelism() }, lane));
    return objects.sort();
  };
}

async function link(compiler, flags, name, objects) {
  const program = join(build, name);
  await execa(compiler, [...flags, "-pthread", ...objects, "-o", program], { timeout: 300_000 });
  return program;
}

function range(from, to) {
  return Array.from({ length: from - to + 1 }, (_, i) => from - i);
}

function fail(message, code = 1) {
  console.error(message);
  process.exit(code);
}
