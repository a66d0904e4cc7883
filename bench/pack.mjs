// How fast the packer writes weights, and the memory that it takes: the random 0.3B of bench/run.mjs, in turns with a plain copy of it.
//
//   npm run build && node bench/pack.mjs [--work build/bench] [--to <folder>] [--reps 5]
//
// A gigabyte is 10^9 bytes of the packed file. The peak is the packer's resident memory, pages of files that it maps among it.

import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { loadModel } from "../dist/frontend/load-model.js";
import { resolveRequest } from "../dist/frontend/model-json.js";
import { lowerModel } from "../dist/lower.js";
import { resolvePackPlan } from "../dist/passes/plan/resolve-pack-plan.js";
import { resolveArch } from "../dist/toolchain/arch.js";
import { Cache } from "../dist/toolchain/cache.js";
import { findCompiler } from "../dist/toolchain/compiler.js";
import { buildPacker } from "../dist/toolchain/native.js";
import { layOutPackedHead, serializePackPlan } from "../dist/weights/pack-plan.js";
import { writeCheckpoint } from "./peers/checkpoint.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const { values: flags } = parseArgs({
  options: {
    work: { type: "string", default: join(here, "..", "build", "bench") },
    to: { type: "string", default: join(here, "..", "build", "bench") },
    reps: { type: "string", default: "5" },
  },
});
const checkpoint = join(resolve(flags.work), "ernie-4.5-0.3b-random");
mkdirSync(flags.work, { recursive: true });
mkdirSync(flags.to, { recursive: true });
writeCheckpoint(checkpoint);

const request = await resolveRequest(checkpoint);
const model = await loadModel(request);
const { config, activations, limits, deterministic } = request;
const { weights } = lowerModel({ config, weights: model.weights, activations, arch: resolveArch("native"), limits, deterministic });
const plan = resolvePackPlan(weights, model.checkpoint);
const packer = await buildPacker({ compiler: await findCompiler(undefined), cache: new Cache() });

const folder = mkdtempSync(join(resolve(flags.to), "pack-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const planFile = join(folder, "plan.json");
writeFileSync(planFile, serializePackPlan(plan, layOutPackedHead(plan, { format: "ernie-compile", build_id: "0".repeat(32) })));
const packed = join(folder, "packed.safetensors");

/** Seconds, and the peak of the process in MiB. */
function pack() {
  rmSync(packed, { force: true });
  const started = performance.now();
  const { status, stderr } = spawnSync(
    "/usr/bin/env",
    [
      "bash",
      "-c",
      `"$@" >/dev/null & p=$!; peak=0; while [ -r /proc/$p/status ]; do
    v=$(grep -s VmHWM /proc/$p/status | tr -dc 0-9); [ -n "$v" ] && peak=$v; sleep 0.01; done; wait $p; echo $peak >&2`,
      "-",
      packer,
      planFile,
      packed,
    ],
    { encoding: "utf8" },
  );
  if (status !== 0) throw new Error(stderr);
  return { seconds: (performance.now() - started) / 1000, peak: Number(stderr.trim()) / 1024 };
}

const copy = join(folder, "copy.safetensors");
const source = join(checkpoint, "model.safetensors");
const runs = [];
for (let rep = 0; rep <= Number(flags.reps); rep++) {
  const run = pack();
  const started = performance.now();
  copyFileSync(source, copy);
  execFileSync("sync", [copy]);
  const copied = (performance.now() - started) / 1000;
  rmSync(copy);
  if (rep > 0) runs.push({ ...run, copied });
}
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
const gigabytes = statSync(packed).size / 1e9;
const rate = (name) => (gigabytes / median(runs.map((run) => run[name]))).toFixed(2);
console.log(
  `packing ${gigabytes.toFixed(2)} GB with ${availableParallelism()} threads: ${rate("seconds")} GB/s, peak ${Math.max(...runs.map(({ peak }) => peak)).toFixed(0)} MiB`,
);
console.log(`copying the checkpoint to the same folder, written through: ${rate("copied")} GB/s`);
