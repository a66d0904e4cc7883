/**
 * Search by a model: a forest of random trees (forest.ts) learns from the results so far which configurations are fast; the next ones are those from which
 * it expects the largest improvement. It learns ranks, not times: only the order matters, a configuration a hundred times too slow must not drown
 * the differences at the top, and what failed is simply behind all that ran.
 */

import type { Random } from "../random.js";
import type { Space } from "../space.js";
import { featuresOf } from "./features.js";
import { Forest } from "./forest.js";
import { Results, type Strategy, type StrategyDef, Untried } from "./strategy.js";

export interface ModelOptions {
  /** Results before the first model; random ones. */
  readonly start: number;
  readonly trees: number;
  /** Results in a leaf of a tree, at least. */
  readonly leaf: number;
  /** Random configurations among the candidates. */
  readonly scattered: number;
  /** Best results whose neighbours are candidates. */
  readonly centres: number;
}

export const MODEL_OPTIONS: ModelOptions = { start: 10, trees: 30, leaf: 2, scattered: 1000, centres: 1 };

export const modelStrategy: StrategyDef = {
  name: "model",
  summary: "largest improvement that a forest of random trees expects, fitted as results come",
  start: (space, random) => new ModelSearch(space, random, MODEL_OPTIONS),
};

export class ModelSearch implements Strategy {
  readonly #space: Space;
  readonly #options: ModelOptions;
  readonly #untried: Untried;
  readonly #results = new Results();
  readonly #forest: Forest;
  #asked = 0;
  /** Candidates of the last model, best last. */
  #queue: number[] = [];
  #fittedAt = 0;

  constructor(space: Space, random: Random, options: ModelOptions) {
    this.#space = space;
    this.#options = options;
    this.#untried = new Untried(space, random);
    this.#forest = new Forest(featuresOf(space), options.trees, options.leaf, random);
  }

  ask(): number | undefined {
    this.#asked++;
    const told = this.#results.indices.length;
    // Results that it did not ask for, as of a journal or of another strategy, are as good a start as random ones.
    if ((this.#asked <= this.#options.start && told < this.#options.start) || told < 2) return this.#untried.takeRandom();
    // Two asked of a model, more once a result adds little: fitting is most of the work.
    if (told - this.#fittedAt >= Math.max(2, told >> 6) || this.#queue.length === 0) this.#rankCandidates();
    for (let index = this.#queue.pop(); index !== undefined; index = this.#queue.pop()) if (this.#untried.take(index)) return index;
    return this.#untried.takeRandom();
  }

  tell(index: number, cost: number): void {
    this.#untried.take(index);
    this.#results.add(index, cost);
  }

  #rankCandidates(): void {
    const { indices } = this.#results;
    this.#fittedAt = indices.length;
    const targets = rankTargets(this.#results);
    this.#forest.fit(indices, targets);
    const best = targets.reduce((lowest, target) => Math.min(lowest, target), Number.POSITIVE_INFINITY);
    const prediction = { mean: 0, variance: 0 };
    const scored = this.#candidates().map((index) => {
      this.#forest.predict(index, prediction);
      return { index, score: expectedImprovement(best, prediction.mean, Math.sqrt(prediction.variance)) };
    });
    scored.sort((a, b) => a.score - b.score);
    this.#queue = scored.map(({ index }) => index);
  }

  #candidates(): number[] {
    const { scattered, centres } = this.#options;
    if (this.#untried.left <= scattered) return Array.from({ length: this.#untried.left }, (_, i) => this.#untried.at(i));
    const found = new Set<number>();
    for (let i = 0; i < scattered; i++) found.add(this.#untried.draw() as number);
    for (const centre of this.#results.best(centres))
      for (const near of this.#space.neighbours(centre)) if (this.#untried.has(near)) found.add(near);
    return [...found];
  }
}

/** The logit of each result's rank, low for a low cost; what failed shares the last rank. */
export function rankTargets({ costs }: Results): Float64Array {
  const sorted = costs.filter((cost) => !Number.isNaN(cost)).sort((a, b) => a - b);
  const count = Math.max(1, sorted.length);
  const last = count - 0.5;
  return Float64Array.from(costs, (cost) => {
    const rank = Math.min(last, (Number.isNaN(cost) ? sorted.length : lowerBound(sorted, cost)) + 0.5);
    return Math.log(rank / (count + 0.5 - rank));
  });
}

function lowerBound(sorted: readonly number[], value: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((sorted[middle] as number) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** How far below `best` a normal variable is expected to fall, counting only falls; Jones, Schonlau and Welch 1998. */
export function expectedImprovement(best: number, mean: number, deviation: number): number {
  // With no spread anywhere the better mean still has to come first.
  if (deviation < 1e-9) return Math.max(0, best - mean) - 1e-9 * mean;
  const z = (best - mean) / deviation;
  const density = Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
  return deviation * (z * normalCdf(z, density) + density) - 1e-9 * mean;
}

/** Abramowitz and Stegun 26.2.17, error below 1e-7. */
function normalCdf(z: number, density: number): number {
  const t = 1 / (1 + 0.2316419 * Math.abs(z));
  const tail = density * t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  return z > 0 ? 1 - tail : tail;
}
