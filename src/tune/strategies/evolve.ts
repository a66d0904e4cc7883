/**
 * A steady-state genetic search: a child takes each value from one of two good parents, some values change at random, and it replaces the worst of
 * the population when it is better. What the constraint forbids or was asked before is mutated on, and in the end replaced by a random one.
 */

import type { Random } from "../random.js";
import type { Parameter, Space } from "../space.js";
import { type Strategy, type StrategyDef, Untried } from "./strategy.js";

const POPULATION = 20;
/** Drawn for each parent; the best of them is it. */
const TOURNAMENT = 3;
const ATTEMPTS = 40;

export const evolveStrategy: StrategyDef = {
  name: "evolve",
  summary: "genetic: uniform crossover of tournament winners, mutation, steady state",
  start: (space, random) => new Evolution(space, random),
};

interface Member {
  readonly index: number;
  readonly cost: number;
}

class Evolution implements Strategy {
  readonly #space: Space;
  readonly #random: Random;
  readonly #untried: Untried;
  readonly #members: Member[] = [];
  #asked = 0;

  constructor(space: Space, random: Random) {
    this.#space = space;
    this.#random = random;
    this.#untried = new Untried(space, random);
  }

  ask(): number | undefined {
    this.#asked++;
    const grown = this.#members.length >= (this.#asked > POPULATION ? 2 : POPULATION);
    const child = grown ? this.#child() : undefined;
    if (child === undefined) return this.#untried.takeRandom();
    this.#untried.take(child);
    return child;
  }

  tell(index: number, cost: number): void {
    this.#untried.take(index);
    if (Number.isNaN(cost)) return;
    this.#members.push({ index, cost });
    if (this.#members.length <= POPULATION) return;
    this.#members.sort((a, b) => a.cost - b.cost);
    this.#members.pop();
  }

  #child(): number | undefined {
    const mother = this.#parent();
    const father = this.#parent();
    const codes = this.#space.parameters.map((_, p) => this.#space.code(this.#random.chance(0.5) ? mother : father, p));
    const rate = 1 / this.#space.parameters.filter(({ values }) => values.length > 1).length;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      this.#space.parameters.forEach((parameter, p) => {
        if (this.#random.chance(rate)) codes[p] = this.#mutated(codes[p] as number, parameter);
      });
      const found = this.#space.find(codes);
      if (found !== undefined && this.#untried.has(found)) return found;
    }
    return undefined;
  }

  /** As often a step to the next value of an order as a jump to any. */
  #mutated(code: number, { values, ordered }: Parameter): number {
    if (!ordered || this.#random.chance(0.5)) return this.#random.below(values.length);
    return Math.min(values.length - 1, Math.max(0, code + (this.#random.chance(0.5) ? 1 : -1)));
  }

  #parent(): number {
    let best = this.#random.pick(this.#members);
    for (let i = 1; i < TOURNAMENT; i++) {
      const other = this.#random.pick(this.#members);
      if (other.cost < best.cost) best = other;
    }
    return best.index;
  }
}
