/** Random sampling without replacement: what every other strategy has to beat, and the start of most of them. */

import { type Strategy, type StrategyDef, Untried } from "./strategy.js";

export const randomStrategy: StrategyDef = {
  name: "random",
  summary: "random configurations, none twice",
  start: (space, random): Strategy => {
    const untried = new Untried(space, random);
    return { ask: () => untried.takeRandom(), tell: (index) => void untried.take(index) };
  },
};
