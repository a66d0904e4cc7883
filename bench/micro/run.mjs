/**
 * Compiles bench/micro/matmul.cpp for this CPU's arch level and runs its modes, alone and with all threads.
 *
 *   node bench/micro/run.mjs [mode ...] [--threads n] [--reps n] [--onednn <folder with include/ and lib/>]
 *
 * Modes: bandwidth, decode, prefill, moe (default: all). With --onednn, `prefill` runs oneDNN's bf16 matmul in turns with ours; the PyPI
 * packages onednn-cpu-gomp and onednn-devel-cpu-gomp, installed in one folder, are enough.
 */

import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { archFlags, resolveArch } from "../../dist/toolchain/arch.js";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "../..");
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { threads: { type: "string" }, reps: { type: "string", default: "20" }, onednn: { type: "string" } },
});
const modes = positionals.length > 0 ? positionals : ["bandwidth", "decode", "prefill", "moe"];
const threads = Number(values.threads ?? availableParallelism());

const arch = resolveArch("native");
const out = join(root, "build/bench");
mkdirSync(out, { recursive: true });
const binary = join(out, `matmul-${arch}${values.onednn ? "-onednn" : ""}`);
const peer = values.onednn
  ? ["-DWITH_ONEDNN", `-I${values.onednn}/include`, `-L${values.onednn}/lib`, `-Wl,-rpath,${values.onednn}/lib`, "-ldnnl"]
  : [];
const flags = ["-std=c++20", "-O2", "-ffp-contract=off", ...archFlags(arch), "-Iruntime", "-pthread"];
execFileSync(process.env.CXX ?? "g++", [...flags, "bench/micro/matmul.cpp", "-o", binary, ...peer], { cwd: root, stdio: "inherit" });

console.log(`arch ${arch}`);
for (const mode of modes) {
  for (const size of new Set([1, threads])) {
    console.log(`\n${mode}, ${size} thread${size > 1 ? "s" : ""}`);
    const file = mode === "bandwidth" ? ["-f", join(out, "bandwidth.bin")] : [];
    // Waiting OpenMP threads must not take the cores from ours.
    const env = { ...process.env, OMP_NUM_THREADS: String(size), OMP_WAIT_POLICY: "passive" };
    execFileSync(binary, [mode, "-t", String(size), "-r", values.reps, ...file], { stdio: "inherit", env });
  }
}
rmSync(join(out, "bandwidth.bin"), { force: true });
