/** Binds the weight plan to a checkpoint: names of tensors become files and offsets. After this nothing knows a tensor's name any more. */

import { bug } from "../../diagnostics.js";
import type { Checkpoint } from "../../weights/checkpoint.js";
import { type PackPart, type PackPlan, packPart, packVector, planPack } from "../../weights/pack-plan.js";
import type { WeightPlan } from "./plan-weights.js";
import type { PartSource } from "./weight-parts.js";

export function resolvePackPlan(plan: WeightPlan, checkpoint: Checkpoint): PackPlan {
  const weights = plan.weights.map(({ id, dtype, layout, shape, interleave, slabs }) => ({
    id,
    dtype,
    layout,
    shape,
    interleave,
    slabs: slabs.map((parts) => parts.map((part) => resolvePart(part, checkpoint))),
  }));
  const packed = planPack(checkpoint, weights);
  for (const [i, { offset, id }] of packed.weights.entries()) {
    if (plan.weights[i]?.offset !== offset) throw bug(`the plan has ${id} at ${plan.weights[i]?.offset}, the packer at ${offset}`);
  }
  return packed;
}

function resolvePart({ tensor: name, slab, transposed, vector, rowStart, rowCount }: PartSource, checkpoint: Checkpoint): PackPart {
  const tensor = checkpoint.tensors.get(name);
  if (!tensor) throw bug("a tensor of the plan that the checkpoint lacks");
  if (vector) return { ...packVector(tensor), rowStart, rowCount };
  return packPart(tensor, { transposed, slab, rowStart, rowCount });
}
