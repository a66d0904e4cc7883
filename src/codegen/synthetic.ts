/**
 * What weights are filled with when there is no checkpoint: numbers that keep activations in their usual range, so that a made-up model runs as a real
 * one does. Which numbers come out of a seed is the runtime's business (runtime/src/synthetic.hpp).
 */

import type { PlannedWeight } from "../passes/plan/plan-weights.js";
import { packedShape } from "../weights/pack-plan.js";
import type { SyntheticFill } from "./plan.js";

export function syntheticFill({ offset, dtype, layout, shape, use }: PlannedWeight): SyntheticFill {
  const elements = packedShape(layout, shape).reduce((product, size) => product * size, 1);
  switch (use) {
    case "norm":
      return { offset, elements, dtype, fill: "constant", scale: 1 };
    case "bias":
      return { offset, elements, dtype, fill: "constant", scale: 0 };
    case "matrix":
      // Rows of unit length: a product then has the variance of what goes in.
      return { offset, elements, dtype, fill: "normal", scale: 1 / Math.sqrt(shape[2]) };
  }
}
