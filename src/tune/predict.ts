/**
 * How long a variant should take, by what it moves and computes and by how it fills the device: a guess that decides what is tried first and what is not
 * tried at all, never what is chosen.
 */

import { MULTIPROCESSORS } from "../kernels/cuda/tiling.js";
import { peakBytes, peakOperations } from "../passes/lower/cost.js";
import type { ArchLevel } from "../toolchain/arch.js";
import { Random } from "./random.js";
import type { Configuration, Space } from "./space.js";
import { kernelOf, paramsOf, type Task, variantAt } from "./task.js";

/** A second, of what lies in L2, over all multiprocessors. */
const CACHE_BYTES = 10e12;
/** Of one step of a warp: what it waits for shared memory and for the tensor core. */
const STEP_SECONDS = 30e-9;
/** What a round of blocks costs besides: their start, their last bytes. */
const ROUND_SECONDS = 0.3e-6;

/** Of a CPU's core. */
const CYCLES = 3e9;

/** Undefined where a kernel does not say enough; on a CPU of a part of the work, so that only ratios say something. How often it is right is in bench/NOTES-tune.md. */
export function predictSeconds(task: Task, variant: Configuration, arch: ArchLevel): number | undefined {
  const kernel = kernelOf(task, variant);
  const params = paramsOf(task, variant);
  const {
    blocks,
    residents = 1,
    blockOperations,
    commonBytes = 0,
    steps = 0,
    cycles,
  } = kernel.footprint?.(params, { rows: task.rows, arch }) ?? {};
  if (blocks === undefined) return cycles === undefined ? undefined : cycles / CYCLES;
  const { bytes, operations } = kernel.cost(params, task.rows);
  const atOnce = MULTIPROCESSORS * residents;
  const rounds = Math.ceil(blocks / atOnce);
  const products =
    blockOperations === undefined ? operations / peakOperations(arch) : (rounds * blockOperations * MULTIPROCESSORS) / peakOperations(arch);
  const common = (Math.min(blocks, atOnce) * commonBytes) / CACHE_BYTES;
  return Math.max(bytes / peakBytes(arch), products) + common + rounds * (steps * STEP_SECONDS + ROUND_SECONDS);
}

/** Slower than the default by this much, by a guess that is off by less: not worth a measurement. Of 800 that were measured none at 1.5 came near the best. */
const HOPELESS = 2;

export interface Prediction {
  /** Indices that are tried before the strategy is asked: the most promising, no two of them neighbours. */
  readonly first: readonly number[];
  /** Whether it is left out. */
  readonly hopeless: (index: number) => boolean;
}

/** `count`: of `first`. The same for the same seed. */
export function predictSpace(task: Task, space: Space, standard: Configuration, arch: ArchLevel, count: number, seed: number): Prediction {
  const own = predictSeconds(task, standard, arch);
  if (own === undefined) return { first: [], hopeless: () => false };
  const seconds = Array.from({ length: space.size }, (_, i) => predictSeconds(task, variantAt(task, space, i), arch) ?? own);
  // Many are predicted alike: which of those come first is left to chance.
  const order = new Random(seed).shuffle(Array.from({ length: space.size }, (_, i) => i));
  order.sort((a, b) => (seconds[a] as number) - (seconds[b] as number));
  const first: number[] = [];
  for (const index of order) {
    if (first.length === count) break;
    const near = new Set(space.neighbours(index));
    if (!first.some((chosen) => near.has(chosen))) first.push(index);
  }
  return { first, hopeless: (index) => (seconds[index] as number) > HOPELESS * own };
}
