/** All strategies by name. */

import { Diagnostic } from "../../diagnostics.js";
import { modelAndEvolve, modelAndLocal } from "./combine.js";
import { evolveStrategy } from "./evolve.js";
import { localStrategy } from "./local.js";
import { modelStrategy } from "./model.js";
import { randomStrategy } from "./random.js";
import type { StrategyDef } from "./strategy.js";

export const STRATEGIES: readonly StrategyDef[] = [
  modelStrategy,
  modelAndLocal,
  modelAndEvolve,
  evolveStrategy,
  localStrategy,
  randomStrategy,
];

/** The one that wins on the recorded landscapes: bench/NOTES-search.md. */
export const DEFAULT_STRATEGY = modelStrategy;

export function strategyNamed(name: string): StrategyDef {
  const found = STRATEGIES.find((def) => def.name === name);
  if (found) return found;
  throw new Diagnostic({
    code: "tune-strategy",
    message: `found ${JSON.stringify(name)}, expected one of ${STRATEGIES.map((def) => def.name).join(", ")}`,
    place: "--strategy",
  });
}
