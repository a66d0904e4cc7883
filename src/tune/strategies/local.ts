/**
 * Local search with restarts: from the best of a few random configurations, the first neighbour that is better becomes the centre; where none is,
 * a walk of a few random steps leads out, and after several walks that ended no better the search starts elsewhere.
 */

import type { Random } from "../random.js";
import type { Space } from "../space.js";
import { type Strategy, type StrategyDef, Untried } from "./strategy.js";

/** Random configurations at a start, of which the best is the first centre. */
const SAMPLED = 5;
const WALK_STEPS = 2;
/** Walks from one best configuration before it is given up. */
const WALKS = 4;

export const localStrategy: StrategyDef = {
  name: "local",
  summary: "local search: first better neighbour, random walks out of a dip, restarts",
  start: (space, random) => new LocalSearch(space, random),
};

class LocalSearch implements Strategy {
  readonly #space: Space;
  readonly #random: Random;
  readonly #untried: Untried;
  readonly #costs = new Map<number, number>();
  #toSample = SAMPLED;
  #centre: number | undefined;
  #queue: number[] = [];
  /** Where walks start from: the best since the last restart. */
  #home: number | undefined;
  #walks = 0;

  constructor(space: Space, random: Random) {
    this.#space = space;
    this.#random = random;
    this.#untried = new Untried(space, random);
  }

  ask(): number | undefined {
    if (this.#toSample > 0) {
      this.#toSample--;
      return this.#untried.takeRandom();
    }
    for (;;) {
      const next = this.#queue.pop();
      if (next === undefined) break;
      if (this.#untried.take(next)) return next;
    }
    this.#leave();
    return this.#untried.takeRandom();
  }

  tell(index: number, cost: number): void {
    // One that it did not ask for is a sample like its own.
    if (this.#untried.take(index) && this.#toSample > 0) this.#toSample--;
    this.#costs.set(index, cost);
    if (Number.isNaN(cost)) return;
    if (this.#centre === undefined || cost < this.#costOf(this.#centre)) this.#moveTo(index);
    if (this.#home === undefined || cost < this.#costOf(this.#home)) {
      this.#home = index;
      this.#walks = 0;
    }
  }

  #moveTo(index: number): void {
    this.#centre = index;
    this.#queue = [...this.#random.shuffle(this.#space.neighbours(index).filter((near) => this.#untried.has(near)))];
  }

  /** No neighbour is left: the next random configuration starts anew, or the search goes on around the end of a walk. */
  #leave(): void {
    if (this.#home === undefined || this.#walks >= WALKS) {
      this.#home = undefined;
      this.#centre = undefined;
      this.#walks = 0;
      this.#toSample = SAMPLED - 1;
      return;
    }
    this.#walks++;
    let at = this.#home;
    for (let step = 0; step < WALK_STEPS; step++) {
      const near = this.#space.neighbours(at);
      if (near.length > 0) at = this.#random.pick(near);
    }
    this.#centre = undefined;
    this.#queue = this.#random.shuffle(this.#space.neighbours(at).filter((near) => this.#untried.has(near)));
  }

  #costOf(index: number): number {
    return this.#costs.get(index) ?? Number.POSITIVE_INFINITY;
  }
}
