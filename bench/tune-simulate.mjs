// The strategies on recorded landscapes and on synthetic ones: (median of best/optimum - 1) as a share of random sampling's, by evaluations.
//
//   npm run build && node bench/tune-simulate.mjs [--seeds 100] [--trials 400] [--strategy model] [--out file.json] <T4 files...>
//   --first f runs seeds f, f + 1, ...: a choice made on some seeds is judged on others.
//   --synthetic n adds n of each kind of bench/tune-landscapes.mjs, of seeds 1, 2, ... or from --synthetic-first on.

import { writeFileSync } from "node:fs";
import { basename } from "node:path";
import { parseArgs } from "node:util";
import { parseLandscape, readLandscape } from "../dist/tune/landscape.js";
import { CHECKPOINTS, medianBest, simulate } from "../dist/tune/simulate.js";
import { STRATEGIES } from "../dist/tune/strategies/index.js";
import { field, tiles } from "./tune-landscapes.mjs";

/** Of random sampling without replacement, medians of many seeds; what is absent here is sampled. */
const RANDOM = {
  convolution_A100: { 50: 1.529, 100: 1.44, 200: 1.305 },
  convolution_W6600: { 50: 1.299, 100: 1.22, 200: 1.208 },
  dedispersion_A4000: { 50: 1.013, 100: 1.009, 200: 1.006 },
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seeds: { type: "string", default: "100" },
    trials: { type: "string", default: "400" },
    first: { type: "string", default: "1" },
    synthetic: { type: "string", default: "0" },
    "synthetic-first": { type: "string", default: "1" },
    strategy: { type: "string", multiple: true },
    out: { type: "string" },
  },
});
const seeds = Number(values.seeds);
const trials = Number(values.trials);
const checkpoints = CHECKPOINTS.filter((checkpoint) => checkpoint <= trials);

const landscapes = [];
for (const path of positionals)
  landscapes.push({ name: basename(path).replace(/_T4\.json(\.gz)?$/, ""), recorded: true, landscape: await readLandscape(path) });
const firstMade = Number(values["synthetic-first"]);
for (let seed = firstMade; seed < firstMade + Number(values.synthetic); seed++)
  for (const make of [tiles, field]) {
    const name = `${make.name}-${seed}`;
    landscapes.push({ name, recorded: false, landscape: parseLandscape(JSON.stringify(make(seed)), name) });
  }

const random = STRATEGIES.find(({ name }) => name === "random");
for (const entry of landscapes) {
  const sampled = simulate(entry.landscape, random, { seeds: 500, trials: 400 });
  entry.random = Object.fromEntries(checkpoints.map((at) => [at, RANDOM[entry.name]?.[at] ?? medianBest(sampled, at)]));
}

const results = [];
for (const def of STRATEGIES.filter(({ name }) => !values.strategy || values.strategy.includes(name))) {
  const rows = [];
  const start = process.cpuUsage().user;
  for (const { name, recorded, landscape, random } of landscapes) {
    const simulation = simulate(landscape, def, { seeds, trials, first: Number(values.first) });
    const median = Object.fromEntries(checkpoints.map((at) => [at, medianBest(simulation, at)]));
    const share = Object.fromEntries(checkpoints.map((at) => [at, (median[at] - 1) / (random[at] - 1)]));
    rows.push({ landscape: name, recorded, median, share });
  }
  const mean = (which) => {
    const chosen = rows.filter(({ recorded }) => recorded === which);
    return chosen.length === 0
      ? null
      : Object.fromEntries(checkpoints.map((at) => [at, chosen.reduce((sum, { share }) => sum + share[at], 0) / chosen.length]));
  };
  const cpuSeconds = (process.cpuUsage().user - start) / 1e6;
  const result = { strategy: def.name, cpuSeconds, shareOfRandom: { recorded: mean(true), synthetic: mean(false) }, landscapes: rows };
  results.push(result);
  const text = (shares) => (shares ? checkpoints.map((at) => `${at}: ${shares[at].toFixed(3)}`).join("  ") : "-");
  console.log(
    `${def.name.padEnd(10)} recorded ${text(result.shareOfRandom.recorded)}   synthetic ${text(result.shareOfRandom.synthetic)}   ${cpuSeconds.toFixed(1)} s of CPU`,
  );
  for (const { landscape, median, share } of rows)
    console.log(
      `  ${landscape.padEnd(20)} ${checkpoints.map((at) => `${at}: ${median[at].toFixed(4)} (${share[at].toFixed(2)})`).join("  ")}`,
    );
}
if (values.out)
  writeFileSync(
    values.out,
    `${JSON.stringify({ node: process.version, first: Number(values.first), seeds, trials, random: Object.fromEntries(landscapes.map(({ name, random }) => [name, random])), results }, null, 2)}\n`,
  );
