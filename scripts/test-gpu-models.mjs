/**
 * Whole models on a GPU: builds the goldens and the mini models for it and holds them to what transformers computed (test/gpu/check.mjs).
 *
 *     node scripts/test-gpu-models.mjs                  builds for this machine's GPU and checks
 *     node scripts/test-gpu-models.mjs <folder> [arch]  builds for another machine (sm_90a), which then needs Node alone: node <folder>/check.mjs <folder>
 */

import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));
const [given, arch = given === undefined ? "native" : "sm_90a"] = process.argv.slice(2);
const folder = given ?? mkdtempSync(join(tmpdir(), "ernie-compile-gpu-"));

function compile(model, out, flags = []) {
  mkdirSync(out, { recursive: true });
  const args = [join(root, "dist/cli/main.js"), "build", model, "--target", "cuda", "--arch", arch, "-o", out, ...flags];
  execFileSync(process.execPath, args, { stdio: ["ignore", "ignore", "inherit"] });
}

function build(model, place, files, flags = []) {
  compile(model, join(place, "package"), flags);
  for (const file of files) cpSync(join(model, file), join(place, file));
}

/** A table in which Triton won every product of many rows, which is no measurement but makes a build take it. */
function tritonTable() {
  const winner = { kernel: "cuda_triton_gemm", params: {}, seconds: 1e-5 };
  const rows = ["linear", "projection", "linear_swiglu"].flatMap((op) =>
    [64, 128, 512, 2048].map((rows) => ({ op, problem: { x: "bf16" }, layouts: { weight: "row" }, rows, winner })),
  );
  const path = join(folder, "triton.json");
  writeFileSync(path, JSON.stringify({ device: arch, rows }));
  return path;
}

try {
  for (const name of ["dense", "dense-bias-untied", "moe", "moe-no-shared-untied"])
    build(join(root, "test/goldens", name), join(folder, "goldens", name), ["golden.safetensors"]);
  for (const name of ["dense", "moe"])
    build(join(root, `examples/models/ernie-mini-${name}`), join(folder, "mini", name), ["expected.json", "held_out.jsonl"]);
  for (const name of ["dense", "moe"]) {
    build(join(root, "test/goldens", name), join(folder, "triton", name), ["golden.safetensors"], ["--tuning", tritonTable()]);
    build(join(root, `examples/models/ernie-mini-${name}`), join(folder, "deterministic", name), ["expected.json"], ["--deterministic"]);
  }
  // Narrower models are refused by it.
  for (const [part, flags] of [
    ["first", ["--decode", "launches"]],
    ["second", ["--decode", "persistent"]],
  ])
    compile("ernie-4.5-0.3b", join(folder, "pairs", "persistent", part), ["--weights", "synthetic:1", ...flags]);
  for (const script of ["check.mjs", "bench.mjs"]) cpSync(join(root, "test/gpu", script), join(folder, script));
  if (given === undefined) execFileSync(process.execPath, [join(folder, "check.mjs"), folder], { stdio: "inherit" });
} finally {
  if (given === undefined) rmSync(folder, { recursive: true, force: true });
}
