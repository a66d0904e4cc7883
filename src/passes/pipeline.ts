/** The passes from what the paper says (level `model`) to what one kernel will do (`fused`), in order. Choosing kernels comes after. */

import { type ArchLevel, isCudaArch, type Target } from "../toolchain/arch.js";
import { canonicalize } from "./canonicalize/canonicalize.js";
import { fuseAddRmsNorm } from "./fuse/fuse-add-rms-norm.js";
import { fuseGateUp } from "./fuse/fuse-gate-up.js";
import { fuseHeadArgmax } from "./fuse/fuse-head-argmax.js";
import { fuseMoe } from "./fuse/fuse-moe.js";
import { fuseNorm } from "./fuse/fuse-norm.js";
import { fuseNormRouter } from "./fuse/fuse-norm-router.js";
import { fuseQkv } from "./fuse/fuse-qkv.js";
import { fuseQkvRope } from "./fuse/fuse-qkv-rope.js";
import { fuseResidual } from "./fuse/fuse-residual.js";
import { fuseRopeAttention } from "./fuse/fuse-rope-attention.js";
import { fuseRopeKvAppend } from "./fuse/fuse-rope-kv-append.js";
import { fuseRouterSwiglu } from "./fuse/fuse-router-swiglu.js";
import { fuseSumNorm } from "./fuse/fuse-sum-norm.js";
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

/** Fewer launches in a decode step of a GPU, where each costs more than its work. */
export const LAUNCH_PASSES: readonly Pass[] = [
  // After last-token-head.
  fuseRopeAttention,
  fuseNormRouter,
  // Before fuse-add-rms-norm, which wants the same sums.
  fuseResidual,
];

/** Those that look at a bucket's size, after clone-buckets. */
export const BUCKET_PASSES: readonly Pass[] = [
  // Before fuse-norm, which would take the norm.
  fuseSumNorm,
  // Which norms are left for it depends on fuse-residual.
  fuseNorm,
  fuseRouterSwiglu,
  fuseQkvRope,
];

/** What they leave has kernels on wgmma alone. */
const WGMMA_PASSES: readonly Pass[] = [fuseQkvRope];

/** A router with its norm inside has other bits than one behind it, which prefill has; so has attention that is cut up for few sequences. */
const OWN_BITS: readonly Pass[] = [fuseNormRouter, fuseRopeAttention];

/** Those after clone-buckets. A norm inside a product rounds elsewhere than one in front of it. */
export function bucketPasses(arch: ArchLevel, deterministic = false): readonly Pass[] {
  if (!isCudaArch(arch) || deterministic) return [];
  return BUCKET_PASSES.filter((pass) => arch === "sm_90a" || !WGMMA_PASSES.includes(pass));
}

export function fusionPasses(target: Target, deterministic = false): readonly Pass[] {
  if (target === "cpu") return FUSION_PASSES;
  const launchPasses = LAUNCH_PASSES.filter((pass) => !deterministic || !OWN_BITS.includes(pass));
  return FUSION_PASSES.flatMap((pass) => (pass === lastTokenHead ? [pass, ...launchPasses] : [pass]));
}
