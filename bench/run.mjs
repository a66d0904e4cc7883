// The figures of bench/NOTES.md: a compiled package against llama.cpp, with the same random weights, threads and bits, alternating in one run.
//
//   npm run build && npm --prefix bench/peers ci && npm run bench -- [--reps 5] [--threads 2] [--work build/bench] [--no-peer]
//
// Prints a table of medians and writes bench/results/<date>-<cpu>.json.

import { execFileSync, fork } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { measureBandwidth } from "../dist/toolchain/bandwidth.js";
import { writeCheckpoint } from "./peers/checkpoint.mjs";
import { writeGguf } from "./peers/gguf.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const CLI = join(HERE, "..", "dist", "cli", "main.js");
const { values: flags } = parseArgs({
  options: {
    reps: { type: "string", default: "5" },
    threads: { type: "string", default: String(availableParallelism()) },
    work: { type: "string", default: join(HERE, "..", "build", "bench") },
    "no-peer": { type: "boolean", default: false },
    // Measures the package that an earlier run built.
    keep: { type: "boolean", default: false },
  },
});
const work = resolve(flags.work);
const threads = Number(flags.threads);
const reps = Number(flags.reps);

/** What is measured, for each side that can. `bar` is the ratio to the peer. */
const ROWS = [
  { name: "decode 128 tokens", request: { kind: "tg", tokens: 128 }, peer: true, bar: 1.15 },
  { name: "prefill 512 tokens", request: { kind: "pp", tokens: 512 }, peer: true, bar: 2 },
  { name: "decode 64 tokens, batch 8", request: { kind: "tg", tokens: 64, batch: 8 }, peer: false },
];

/** Tokens that the cache holds when memory is looked at, as in start.mjs. */
const START_CONTEXT = 2048;

class Side {
  constructor(file, args) {
    this.child = fork(file, args, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
    this.ready = this.#next();
  }
  #next() {
    return new Promise((done, failed) => {
      const onExit = (code) => failed(new Error(`${this.child.spawnargs[1]} ended with ${code}`));
      this.child.once("exit", onExit);
      this.child.once("message", (message) => {
        this.child.off("exit", onExit);
        done(message);
      });
    });
  }
  measure(request) {
    const answer = this.#next();
    this.child.send(request);
    return answer;
  }
  end() {
    this.child.send("end");
  }
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

function prepare() {
  mkdirSync(work, { recursive: true });
  const checkpoint = join(work, "ernie-4.5-0.3b-random");
  const gguf = join(work, "ernie-4.5-0.3b-random.gguf");
  const folder = join(work, "ernie-4.5-0.3b");
  writeCheckpoint(checkpoint);
  if (!flags["no-peer"] && !existsSync(gguf)) writeGguf(checkpoint, gguf);
  if (!flags.keep) execFileSync(process.execPath, [CLI, "build", checkpoint, "-o", folder], { stdio: ["ignore", "inherit", "inherit"] });
  return { gguf, folder };
}

const { gguf, folder } = prepare();
const ours = new Side(join(HERE, "ours.mjs"), [folder, String(threads)]);
await ours.ready;
const peer = flags["no-peer"] ? undefined : new Side(join(HERE, "peers", "llama.mjs"), [gguf, String(threads)]);
await peer?.ready;

const results = ROWS.map((row) => ({ ...row, ours: [], peer: [], bandwidth: [] }));
for (let rep = -1; rep < reps; rep++) {
  for (const [i, row] of ROWS.entries()) {
    const mine = await ours.measure(row.request);
    const theirs = peer && row.peer ? await peer.measure(row.request) : undefined;
    const bandwidth = await measureBandwidth(threads);
    if (rep < 0) continue; // the first round warms both up
    results[i].ours.push(mine);
    if (theirs !== undefined) results[i].peer.push(theirs);
    results[i].bandwidth.push(bandwidth);
  }
}
ours.end();
peer?.end();

const weightBytes = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8")).memory.weights;
console.log(`\n${cpus()[0].model.trim()}, ${threads} threads, medians of ${reps}, alternating`);
console.log("| what | ernie-compile | llama.cpp | ratio | bar | of read bandwidth |");
console.log("| --- | --- | --- | --- | --- | --- |");
for (const row of results) {
  const mine = median(row.ours);
  const theirs = row.peer.length > 0 ? median(row.peer) : undefined;
  const share = row.request.kind === "tg" ? (mine / (row.request.batch ?? 1)) * (weightBytes / median(row.bandwidth)) : undefined;
  const cells = [
    row.name,
    `${mine.toFixed(1)} tok/s`,
    theirs === undefined ? "" : `${theirs.toFixed(1)} tok/s`,
    theirs === undefined ? "" : (mine / theirs).toFixed(2),
    row.bar ?? "",
    share === undefined ? "" : `${(100 * share).toFixed(1)} %`,
  ];
  console.log(`| ${cells.join(" | ")} |`);
}
const starts = Array.from({ length: reps }, () =>
  JSON.parse(execFileSync(process.execPath, [join(HERE, "start.mjs"), folder, String(threads)], { encoding: "utf8" })),
);
const { memory } = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8"));
const allowed = memory.weights + memory.kvBytesPerToken * START_CONTEXT + 64 * 2 ** 20;
const worst = (name) => Math.max(...starts.map((start) => start[name]));
console.log(
  `\nstart, the slowest of ${reps} processes, weights in the page cache: load ${worst("load").toFixed(0)} ms (bar 200), first token of 16 ${worst("first").toFixed(0)} ms (bar 400)`,
);
console.log(
  `resident at context ${START_CONTEXT} above a bare node: ${(worst("resident") / 2 ** 20).toFixed(0)} MiB (bar ${(allowed / 2 ** 20).toFixed(0)})`,
);
const commit = execFileSync("git", ["rev-parse", "--short", "HEAD"], { cwd: HERE, encoding: "utf8" }).trim();
const file = join(HERE, "results", `${new Date().toISOString().slice(0, 10)}-cpu-0.3b.json`);
mkdirSync(dirname(file), { recursive: true });
writeFileSync(
  file,
  `${JSON.stringify({ device: cpus()[0].model.trim(), threads, commit, weightBytes, rows: results, starts }, null, 1)}\n`,
);
console.log(`\nwritten: ${file}`);
