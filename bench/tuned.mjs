// What a table of measurements brings a whole model: one package with it and one without, in turns, and the ratio of their speeds with its interval.
//
//   node bench/tuned.mjs <model> --table <file> [--arch level] [--rounds n] [--loads n] [--threads n] [--batch 1,4] [--prompt 512] [--generate 32] [--json]
//
// Weights are synthetic. Each round runs both packages one after the other, the other one first in every second round, on prompts that neither has
// seen; a ratio is of the two runs of one round, so whatever slows the machine for longer than a round slows both. Where a process's memory lies makes
// a difference of per cents that stays as long as it lives: so both are loaded anew several times, and rounds are spread over the loads.

import { execFileSync, fork } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { medianInterval } from "../dist/tune/stats.js";

const here = dirname(fileURLToPath(import.meta.url));
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    table: { type: "string" },
    arch: { type: "string", default: "native" },
    rounds: { type: "string", default: "30" },
    loads: { type: "string", default: "6" },
    threads: { type: "string", default: String(availableParallelism()) },
    batch: { type: "string", default: "1" },
    prompt: { type: "string", default: "512" },
    generate: { type: "string", default: "32" },
    json: { type: "boolean", default: false },
  },
});
const [model] = positionals;
if (!model || !values.table) {
  console.error("usage: node bench/tuned.mjs <model> --table <file> (see the head of the file)");
  process.exit(2);
}

const work = mkdtempSync(join(tmpdir(), "ernie-compile-tuned-"));
const children = [];
try {
  const packages = [];
  for (const [name, table] of [
    ["standard", "none"],
    ["tuned", values.table],
  ]) {
    const out = join(work, name);
    const flags = ["-o", out, "--weights", "synthetic:1", "--arch", values.arch, "--tuning", table, "--json"];
    const built = JSON.parse(
      execFileSync(process.execPath, [join(here, "../dist/cli/main.js"), "build", model, ...flags], {
        encoding: "utf8",
        maxBuffer: 2 ** 28,
      }),
    );
    packages.push({ out, kernels: built.kernels.map((kernel) => kernel.name) });
  }
  const changed = packages[1].kernels.filter((kernel) => !packages[0].kernels.includes(kernel));
  const requests = [
    ...values.batch
      .split(",")
      .map((batch) => ({ name: `decode, batch ${batch}`, kind: "tg", tokens: Number(values.generate), batch: Number(batch) })),
    { name: `prefill ${values.prompt}`, kind: "pp", tokens: Number(values.prompt) },
  ];
  const ratios = requests.map(() => []);
  const speeds = requests.map(() => [[], []]);
  const loads = Number(values.loads);
  for (let load = 0; load < loads; load++) {
    const running = [];
    for (const which of load % 2 === 0 ? [0, 1] : [1, 0]) running[which] = await start(packages[which].out);
    for (let round = -1; round < Number(values.rounds) / loads; round++) {
      for (const [i, request] of requests.entries()) {
        const found = [0, 0];
        for (const which of round % 2 === 0 ? [0, 1] : [1, 0]) {
          running[which].send(request);
          found[which] = await answer(running[which]);
        }
        // The first round fills caches and page tables.
        if (round < 0) continue;
        ratios[i].push(found[1] / found[0]);
        for (const which of [0, 1]) speeds[i][which].push(found[which]);
      }
    }
    for (const child of running) child.kill();
  }
  const rows = requests.map(({ name }, i) => {
    const [standard, tuned] = speeds[i].map((list) => medianInterval(list).median);
    return { name, standard, tuned, gain: medianInterval(ratios[i]), rounds: ratios[i].length };
  });
  if (values.json) console.log(JSON.stringify({ arch: values.arch, threads: Number(values.threads), changed, rows }, null, 1));
  else {
    console.log(`${changed.length} kernels differ from the default: ${changed.join(", ")}`);
    for (const { name, standard, tuned, gain } of rows)
      console.log(
        `${name}: ${standard.toFixed(2)} -> ${tuned.toFixed(2)} t/s, ${gain.median.toFixed(4)} times (95 %: ${gain.low.toFixed(4)} to ${gain.high.toFixed(4)})`,
      );
  }
} finally {
  for (const child of children) child.kill();
  rmSync(work, { recursive: true, force: true });
}

async function start(folder) {
  const child = fork(join(here, "ours.mjs"), [folder, values.threads], { stdio: ["ignore", "ignore", "inherit", "ipc"] });
  children.push(child);
  await answer(child);
  return child;
}

function answer(child) {
  return new Promise((resolve, reject) => {
    const onExit = (code) => reject(new Error(`a package ended with ${code}`));
    child.once("exit", onExit);
    child.once("message", (message) => {
      child.off("exit", onExit);
      resolve(message);
    });
  });
}
