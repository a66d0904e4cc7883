/**
 * What a search strategy is: something that is asked for the next configuration to measure and told what came of it. Whoever drives it measures,
 * keeps the journal and stops at the budget. The same seed and the same answers in the same order give the same questions.
 */

import type { Random } from "../random.js";
import type { Space } from "../space.js";

export interface Strategy {
  /**
   * A configuration that was not asked for before, or undefined once there is none. May be called again before the last answer is told, as
   * compilation runs ahead of measuring.
   */
  ask(): number | undefined;
  /**
   * What it cost, lower is better; NaN when it failed to compile, crashed or was wrong. Also for results that were not asked for, such as a
   * journal's or another strategy's: they count like its own and are not asked for afterwards.
   */
  tell(index: number, cost: number): void;
}

export interface StrategyDef {
  readonly name: string;
  /** One line for `--help`. */
  readonly summary: string;
  readonly start: (space: Space, random: Random) => Strategy;
}

/** Which configurations are left, with a random one in constant time. */
export class Untried {
  readonly #order: Uint32Array;
  readonly #position: Uint32Array;
  #left: number;

  constructor(
    readonly space: Space,
    readonly random: Random,
  ) {
    this.#order = Uint32Array.from({ length: space.size }, (_, i) => i);
    this.#position = this.#order.slice();
    this.#left = space.size;
  }

  get left(): number {
    return this.#left;
  }

  has(index: number): boolean {
    return (this.#position[index] as number) < this.#left;
  }

  /** The `i`th of those left, in no particular order. */
  at(i: number): number {
    return this.#order[i] as number;
  }

  /** Takes it out, if it is still there. */
  take(index: number): boolean {
    const at = this.#position[index] as number;
    if (at >= this.#left) return false;
    this.#left--;
    const last = this.#order[this.#left] as number;
    this.#order[at] = last;
    this.#position[last] = at;
    this.#order[this.#left] = index;
    this.#position[index] = this.#left;
    return true;
  }

  /** One of those left, not taken out. */
  draw(): number | undefined {
    return this.#left === 0 ? undefined : this.at(this.random.below(this.#left));
  }

  /** One of those left, taken out. */
  takeRandom(): number | undefined {
    const index = this.draw();
    if (index !== undefined) this.take(index);
    return index;
  }
}

/** What was told so far. */
export class Results {
  readonly indices: number[] = [];
  readonly costs: number[] = [];

  add(index: number, cost: number): void {
    this.indices.push(index);
    this.costs.push(cost);
  }

  /** The `count` configurations of the lowest costs, lowest first; failed ones are none of them. */
  best(count: number): number[] {
    const valid = [...this.costs.keys()].filter((i) => !Number.isNaN(this.costs[i]));
    valid.sort((a, b) => (this.costs[a] as number) - (this.costs[b] as number));
    return valid.slice(0, count).map((i) => this.indices[i] as number);
  }
}
