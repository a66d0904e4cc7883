/**
 * How long a variant should take, by what it moves and computes and by how it fills the device: a guess that decides what is tried first and what is not
 * tried at all, never what is chosen. Of GPUs: a CPU's variants differ in what their footprints do not say.
 */

import { MULTIPROCESSORS } from "../kernels/cuda/tiling.js";
import { peakBytes, peakOperations } from "../passes/lower/cost.js";
import type { ArchLevel } from "../toolchain/arch.js";
import { Random } from "./random.js";
import type { Configuration, Space } from "./space.js";
import { kernelOf, paramsOf, type Task, variantAt } from "./task.js";

/** Bytes on their way to a multiprocessor that hide the latency of memory: 3 TB/s for 1.5 us, over all of them. */
const IN_FLIGHT = 32 * 1024;
/** What a block or tile costs besides: its start, its last bytes, its sums. */
const BLOCK_SECONDS = 0.4e-6;

/** Undefined where a kernel does not say enough. */
export function predictSeconds(task: Task, variant: Configuration, arch: ArchLevel): number | undefined {
  const kernel = kernelOf(task, variant);
  const params = paramsOf(task, variant);
  const { blocks, residents = 1, blockOperations, cacheBytes = 0 } = kernel.footprint?.(params, { rows: task.rows, arch }) ?? {};
  if (blocks === undefined) return undefined;
  const { bytes, operations } = kernel.cost(params, task.rows);
  const atOnce = Math.min(residents, Math.ceil(blocks / MULTIPROCESSORS));
  const busy = Math.min(1, blocks / MULTIPROCESSORS);
  const memory = bytes / (peakBytes(arch) * busy * Math.min(1, (atOnce * cacheBytes) / IN_FLIGHT));
  const rounds = Math.ceil(blocks / (MULTIPROCESSORS * residents));
  const rate = peakOperations(arch) / MULTIPROCESSORS;
  const products = blockOperations === undefined ? operations / peakOperations(arch) : (rounds * blockOperations) / rate;
  return Math.max(memory, products) + rounds * BLOCK_SECONDS;
}

/** Slower than the default by this much, by a guess that is off by less: not worth a measurement. */
const HOPELESS = 3;

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
