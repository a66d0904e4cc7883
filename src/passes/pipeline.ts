/** The passes from what the paper says (level `model`) to what one kernel will do (`fused`), in order. Choosing kernels comes after. */

import { canonicalize } from "./canonicalize/canonicalize.js";
import { fuseAddRmsNorm } from "./fuse/fuse-add-rms-norm.js";
import { fuseGateUp } from "./fuse/fuse-gate-up.js";
import { fuseHeadArgmax } from "./fuse/fuse-head-argmax.js";
import { fuseMoe } from "./fuse/fuse-moe.js";
import { fuseQkv } from "./fuse/fuse-qkv.js";
import { fuseRopeKvAppend } from "./fuse/fuse-rope-kv-append.js";
import { lastTokenHead } from "./lower/last-token-head.js";
import type { Pass } from "./pass.js";

export const FUSION_PASSES: readonly Pass[] = [
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
  fuseAddRmsNorm,
  fuseHeadArgmax,
  // Last: the fusions leave slices of fused checkpoint tensors and unread results behind.
  canonicalize,
];
