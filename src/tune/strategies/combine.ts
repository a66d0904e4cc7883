/** Strategies that share their results and take turns: one that is lost in a dip is led out by what another one finds. */

import type { Random } from "../random.js";
import type { Space } from "../space.js";
import { evolveStrategy } from "./evolve.js";
import { localStrategy } from "./local.js";
import { modelStrategy } from "./model.js";
import type { Strategy, StrategyDef } from "./strategy.js";

interface Part {
  readonly def: StrategyDef;
  /** Of the questions, against the other parts. */
  readonly weight: number;
}

export const modelAndLocal = combine("model+local", [
  { def: modelStrategy, weight: 3 },
  { def: localStrategy, weight: 1 },
]);

export const modelAndEvolve = combine("model+evolve", [
  { def: modelStrategy, weight: 3 },
  { def: evolveStrategy, weight: 1 },
]);

export function combine(name: string, parts: readonly Part[]): StrategyDef {
  const shares = parts.map(({ def, weight }) => `${weight} of ${def.name}`).join(" to ");
  return { name, summary: `in turns, ${shares}, with shared results`, start: (space, random) => new Turns(space, random, parts) };
}

class Turns implements Strategy {
  readonly #parts: { readonly strategy: Strategy; readonly weight: number; asked: number }[];
  readonly #asked = new Set<number>();

  constructor(space: Space, random: Random, parts: readonly Part[]) {
    this.#parts = parts.map(({ def, weight }) => ({ strategy: def.start(space, random), weight, asked: 0 }));
  }

  ask(): number | undefined {
    // The part that is farthest behind its share; one that has nothing left to ask is passed over.
    const order = [...this.#parts].sort((a, b) => a.asked / a.weight - b.asked / b.weight);
    for (const part of order) {
      part.asked++;
      for (let index = part.strategy.ask(); index !== undefined; index = part.strategy.ask()) {
        // Another part asked for it and waits for the answer, which this one will be told as well.
        if (this.#asked.has(index)) continue;
        this.#asked.add(index);
        return index;
      }
    }
    return undefined;
  }

  tell(index: number, cost: number): void {
    this.#asked.add(index);
    for (const { strategy } of this.#parts) strategy.tell(index, cost);
  }
}
