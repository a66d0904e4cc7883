/**
 * What a table chose against the defaults, kernel by kernel, in a fresh run: other numbers, other processes, in turns.
 *
 *   npm run build && node bench/tuned-kernels.mjs <table> [--target cuda --arch sm_90a] [--kernel <part of a name>] [--seed n] [--json file]
 *
 * Prints a line a row whose choice is not the default, slowest first, and the geometric mean by kernel. Exits with 1 where a choice is slower than its
 * default with its whole 99.9 % interval.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { tunePlatform } from "../dist/cli/tune-platform.js";
import { isStepOp } from "../dist/kernels/steps.js";
import { kernelByName } from "../dist/kernels/table.js";
import { resolveArch } from "../dist/toolchain/arch.js";
import { makeTask, variantKey } from "../dist/tune/task.js";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    target: { type: "string", default: "cpu" },
    arch: { type: "string", default: "native" },
    kernel: { type: "string", default: "" },
    seed: { type: "string", default: "90210" },
    json: { type: "string" },
  },
});
const table = JSON.parse(readFileSync(positionals[0], "utf8"));
const platform = await tunePlatform(resolveArch(values.arch, values.target), {});
if (platform.device !== table.device) console.log(`the table is of ${table.device}, this is ${platform.device}`);
const backend = await platform.open();

const jobs = table.rows
  // Choices above kernels are measured as packages: bench/tuned.mjs.
  .filter((row) => row.default && !isStepOp(row.op) && row.winner.kernel.includes(values.kernel))
  .map((row) => {
    const kernel = kernelByName(row.op, row.default.kernel);
    const layouts = Object.fromEntries(Object.entries(row.layouts).map(([operand, layout]) => [`${operand}_layout`, layout]));
    const task = makeTask(kernel, { ...row.problem, ...layouts }, row.rows);
    const same = row.winner.kernel === row.default.kernel;
    const winner = same ? row.winner.params : { kernel: row.winner.kernel, ...row.winner.params };
    return { row, task, variants: [row.default.params, winner], same: variantKey(winner) === variantKey(row.default.params) };
  });

const timed = await Promise.all(
  jobs
    .filter(({ same }) => !same)
    .map(async (job) => {
      const [, found] = await backend.final({ task: job.task, variants: job.variants, seed: Number(values.seed) });
      return { ...job, found };
    }),
);
await backend.close();

const results = timed.map(({ row, task, variants, found }) => ({
  task: task.key,
  kernel: row.winner.kernel,
  rows: row.rows,
  variant: variantKey(variants[1]),
  promised: row.winner.seconds / row.default.seconds,
  ...(found ? { seconds: found.seconds, ratio: found.ratio, low: found.ratioLow, high: found.ratioHigh } : { failed: true }),
}));
results.sort((a, b) => (b.ratio ?? 9) - (a.ratio ?? 9));
for (const { task, variant, promised, ratio, low, high, failed } of results) {
  const sizes = task.split(" ").filter((part) => /^(n|k|hidden|m|rows|norm|residual)=/.test(part));
  const said = failed ? "FAILED" : `${ratio.toFixed(3)} (${low.toFixed(3)} to ${high.toFixed(3)})`;
  console.log(`${said} promised ${promised.toFixed(3)}  ${task.split(" ")[0]} ${sizes.join(" ")}  ${variant}`);
}
const mean = (list) => Math.exp(list.reduce((sum, value) => sum + Math.log(value), 0) / Math.max(1, list.length));
const byKernel = new Map();
for (const { task, same } of jobs) {
  const name = task.kernel.name;
  const entry = byKernel.get(name) ?? { all: [], changed: 0 };
  const ratio = same ? 1 : (results.find((result) => result.task === task.key)?.ratio ?? 1);
  entry.all.push(1 / ratio);
  entry.changed += same ? 0 : 1;
  byKernel.set(name, entry);
}
for (const [name, { all, changed }] of [...byKernel].sort())
  console.log(`${name}: ${all.length} tasks, ${changed} changed, gain ${mean(all).toFixed(3)}`);
console.log(
  `all: ${jobs.length} tasks, ${results.length} changed, gain ${mean([...byKernel.values()].flatMap(({ all }) => all)).toFixed(3)}`,
);
if (values.json) writeFileSync(values.json, JSON.stringify({ device: table.device, machine: platform.machine, results }, undefined, 1));
const slower = results.filter(({ failed, low }) => failed || low > 1);
console.log(`${slower.length} slower than their defaults`);
process.exitCode = slower.length > 0 ? 1 : 0;
