/** `ernie-compile tune simulate`: runs a search strategy on a recorded landscape. */

import type { Command } from "commander";
import { readLandscape } from "../tune/landscape.js";
import { CHECKPOINTS, medianBest, type Simulation, simulate } from "../tune/simulate.js";
import { DEFAULT_STRATEGY, STRATEGIES, strategyNamed } from "../tune/strategies/index.js";
import { integer, oneOf } from "./numbers.js";
import { printJson, printLine } from "./terminal.js";

interface SimulateOptions {
  readonly strategy: string;
  readonly trials: number;
  readonly seeds: number;
  readonly json?: boolean;
}

const NAMES = STRATEGIES.map(({ name }) => name);
const LAST_CHECKPOINT = CHECKPOINTS[CHECKPOINTS.length - 1] as number;

export function registerSimulate(tune: Command): void {
  tune
    .command("simulate")
    .description("run a search strategy on a recorded landscape: best/optimum after so many evaluations")
    .argument("<landscape>", "T4 file, .json or .json.gz")
    .option("--strategy <name>", `one of ${NAMES.join(", ")}`, oneOf(...NAMES), DEFAULT_STRATEGY.name)
    .option("--trials <n>", "evaluations a seed; a failed configuration counts as one", integer(CHECKPOINTS[0]), LAST_CHECKPOINT)
    .option("--seeds <k>", "independent runs, of seeds 1 to k", integer(1, 100_000), 1)
    .option("--json", "print one JSON object")
    .addHelpText(
      "after",
      `\nStrategies:\n${STRATEGIES.map(({ name, summary }) => `  ${name.padEnd(13)} ${summary}`).join("\n")}\n\nExample:\n  ernie-compile tune simulate examples/tune/synthetic_T4.json.gz --seeds 20`,
    )
    .action(async (path: string, { strategy, trials, seeds, json }: SimulateOptions) => {
      const simulation = simulate(await readLandscape(path), strategyNamed(strategy), { seeds, trials });
      if (json) printJson(simulation);
      else printTable(simulation);
    });
}

function printTable(simulation: Simulation): void {
  const columns = Object.keys(simulation.seeds[0]?.best ?? {}).map(Number);
  const row = (head: string, cells: readonly string[]) => printLine([head.padEnd(8), ...cells.map((cell) => cell.padStart(8))].join(" "));
  const ratio = (value: number | null) => (value === null || !Number.isFinite(value) ? "-" : value.toFixed(4));
  printLine(`strategy ${simulation.strategy}, optimum ${simulation.optimum}; best/optimum after evaluations:`);
  row("seed", columns.map(String));
  for (const { seed, best } of simulation.seeds)
    row(
      String(seed),
      columns.map((column) => ratio(best[column] ?? null)),
    );
  row(
    "median",
    columns.map((column) => ratio(medianBest(simulation, column))),
  );
}
