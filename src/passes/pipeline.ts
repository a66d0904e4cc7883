/** The passes from what the paper says (level `model`) to what one kernel will do (`fused`), in order. Choosing kernels comes after. */

import type { Target } from "../toolchain/arch.js";
import { canonicalize } from "./canonicalize/canonicalize.js";
import { fuseAddRmsNorm } from "./fuse/fuse-add-rms-norm.js";
import { fuseGateUp } from "./fuse/fuse-gate-up.js";
import { fuseHeadArgmax } from "./fuse/fuse-head-argmax.js";
import { fuseMoe } from "./fuse/fuse-moe.js";
import { fuseNorm } from "./fuse/fuse-norm.js";
import { fuseQkv } from "./fuse/fuse-qkv.js";
import { fuseResidual } from "./fuse/fuse-residual.js";
import { fuseRopeAttention } from "./fuse/fuse-rope-attention.js";
import { fuseRopeKvAppend } from "./fuse/fuse-rope-kv-append.js";
import { lastTokenHead } from "./lower/last-token-head.js";
import type { Pass } from "./pass.js";

const FIRST_PASSES: readonly Pass[] = [
  // First, so that the fusions see one spelling and each weight once.
  canonicalize,
  fuseQkv,
  fuseGateUp,
  // Needs the pieces that fuse-qkv leaves.
  fuseRopeKvAppend,
  // Before fuse-add-rms-norm, which would take the sums that belong to the experts.
  fuseMoe,
  // After fuse-moe, whose op has a row a token; before the two below, which then see the rows that are wanted.
  lastTokenHead,
];

/** Fewer launches in a decode step of a GPU, where each costs more than its work; before fuse-add-rms-norm, which wants the same norms and sums. */
const LAUNCH_PASSES: readonly Pass[] = [
  fuseRopeAttention,
  // Before fuse-norm, which takes the norm in front of it.
  fuseHeadArgmax,
  fuseNorm,
  fuseResidual,
];

const LAST_PASSES: readonly Pass[] = [
  fuseAddRmsNorm,
  fuseHeadArgmax,
  // Last: the fusions leave slices of fused checkpoint tensors and unread results behind.
  canonicalize,
];

export function fusionPasses(target: Target): readonly Pass[] {
  return target === "cuda" ? [...FIRST_PASSES, ...LAUNCH_PASSES, ...LAST_PASSES] : [...FIRST_PASSES, ...LAST_PASSES];
}

/** Those of every target. */
export const FUSION_PASSES: readonly Pass[] = fusionPasses("cpu");
