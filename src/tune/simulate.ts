/** Runs a strategy on a recorded landscape, as if each configuration were measured: how good is the best one after so many evaluations? */

import type { Landscape } from "./landscape.js";
import { Random } from "./random.js";
import type { StrategyDef } from "./strategies/strategy.js";

/** Numbers of evaluations at which the best so far is reported. */
export const CHECKPOINTS = [20, 50, 100, 200, 400] as const;

export interface SimulatedSeed {
  readonly seed: number;
  /** best / optimum by number of evaluations; null where every one so far failed. */
  readonly best: { readonly [evaluations: string]: number | null };
}

export interface Simulation {
  readonly strategy: string;
  readonly optimum: number;
  readonly seeds: readonly SimulatedSeed[];
}

/** Checkpoints beyond `trials` are left out. A run that ends before a checkpoint, with the space or at the optimum, has its best there. */
export function simulateSeed(landscape: Landscape, def: StrategyDef, seed: number, trials: number): SimulatedSeed {
  const strategy = def.start(landscape.space, new Random(seed));
  const checkpoints = CHECKPOINTS.filter((checkpoint) => checkpoint <= trials);
  const best: { [evaluations: string]: number | null } = {};
  let lowest = Number.POSITIVE_INFINITY;
  const reached = () => (lowest === Number.POSITIVE_INFINITY ? null : lowest / landscape.optimum);
  for (let evaluations = 1; evaluations <= (checkpoints.at(-1) ?? 0); evaluations++) {
    const index = strategy.ask();
    if (index === undefined) break;
    const cost = landscape.costs[index] as number;
    if (cost < lowest) lowest = cost;
    strategy.tell(index, cost);
    if (checkpoints.some((checkpoint) => checkpoint === evaluations)) best[evaluations] = reached();
    // Nothing is below the optimum: what a strategy does from here on changes no figure.
    if (lowest === landscape.optimum) break;
  }
  for (const checkpoint of checkpoints) if (!(checkpoint in best)) best[checkpoint] = reached();
  return { seed, best };
}

export function simulate(
  landscape: Landscape,
  def: StrategyDef,
  { seeds, trials, first = 1 }: { seeds: number; trials: number; first?: number },
): Simulation {
  return {
    strategy: def.name,
    optimum: landscape.optimum,
    seeds: Array.from({ length: seeds }, (_, i) => simulateSeed(landscape, def, first + i, trials)),
  };
}

/** The median over the seeds after so many evaluations; infinite where half of them found nothing. */
export function medianBest({ seeds }: Simulation, evaluations: number): number {
  const sorted = seeds.map(({ best }) => best[evaluations] ?? Number.POSITIVE_INFINITY).sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? (sorted[middle] as number) : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}
