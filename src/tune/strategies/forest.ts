/**
 * Extremely randomised trees (Geurts, Ernst and Wehenkel 2006) over ranked features: the model that is fitted to results as they come. Every tree
 * sees all results and splits them at random borders; how far the trees differ is how little they know. Few results are too few to waste a third
 * of them, as drawing with replacement does.
 */

import type { Random } from "../random.js";

export interface Prediction {
  mean: number;
  /** Between the trees, and within their leaves. */
  variance: number;
}

const LEAF = -1;

export class Forest {
  readonly #columns: readonly Uint8Array[];
  /** The columns at the results that are fitted: few enough to stay in the cache. */
  #fitted: readonly Uint8Array[] = [];
  readonly #random: Random;
  readonly #trees: number;
  /** Results in a leaf, at least. */
  readonly #minLeaf: number;
  /** Features looked at for a split; a third of them, as is usual for regression. */
  readonly #tries: number;
  /** Nodes of all trees; a tree of n results has at most 2n - 1. */
  #feature = new Int16Array(0);
  #border = new Uint8Array(0);
  #left = new Int32Array(0);
  #right = new Int32Array(0);
  #mean = new Float64Array(0);
  #variance = new Float64Array(0);
  #nodes = 0;
  readonly #roots: number[] = [];
  readonly #shuffled: Int32Array;

  /** `columns[f][i]` is feature f of configuration i. */
  constructor(columns: readonly Uint8Array[], trees: number, minLeaf: number, random: Random) {
    this.#minLeaf = minLeaf;
    this.#columns = columns;
    this.#trees = trees;
    this.#random = random;
    this.#tries = Math.max(2, Math.ceil(columns.length / 3));
    this.#shuffled = Int32Array.from(columns.keys());
  }

  /** Replaces the model by one of these results; `indices` are configurations. */
  fit(indices: readonly number[], targets: Float64Array): void {
    const count = indices.length;
    this.#reserve(2 * count * this.#trees);
    this.#fitted = this.#columns.map((column) => Uint8Array.from(indices, (index) => column[index] as number));
    this.#nodes = 0;
    this.#roots.length = 0;
    const drawn = new Int32Array(count);
    for (let t = 0; t < this.#trees; t++) {
      for (let i = 0; i < count; i++) drawn[i] = i;
      this.#roots.push(this.#grow(targets, drawn, 0, count));
    }
  }

  predict(index: number, into: Prediction): void {
    let sum = 0;
    let squares = 0;
    let within = 0;
    for (let node of this.#roots) {
      for (let f = this.#feature[node] as number; f !== LEAF; f = this.#feature[node] as number)
        node = (((this.#columns[f] as Uint8Array)[index] as number) <= (this.#border[node] as number) ? this.#left : this.#right)[
          node
        ] as number;
      const mean = this.#mean[node] as number;
      sum += mean;
      squares += mean * mean;
      within += this.#variance[node] as number;
    }
    into.mean = sum / this.#trees;
    into.variance = Math.max(0, squares / this.#trees - into.mean * into.mean) + within / this.#trees;
  }

  /** The node for `drawn[from..to)`, which it reorders. */
  #grow(targets: Float64Array, drawn: Int32Array, from: number, to: number): number {
    const node = this.#nodes++;
    let sum = 0;
    let squares = 0;
    for (let i = from; i < to; i++) {
      const y = targets[drawn[i] as number] as number;
      sum += y;
      squares += y * y;
    }
    const count = to - from;
    const mean = sum / count;
    const variance = Math.max(0, squares / count - mean * mean);
    this.#mean[node] = mean;
    this.#variance[node] = variance;
    this.#feature[node] = LEAF;
    if (count < 2 * this.#minLeaf || variance < 1e-12) return node;
    const split = this.#bestSplit(targets, drawn, from, to, sum);
    if (!split) return node;

    const column = this.#fitted[split.feature] as Uint8Array;
    let low = from;
    let high = to - 1;
    while (low <= high) {
      const entry = drawn[low] as number;
      if ((column[entry] as number) <= split.border) {
        low++;
        continue;
      }
      drawn[low] = drawn[high] as number;
      drawn[high--] = entry;
    }
    this.#feature[node] = split.feature;
    this.#border[node] = split.border;
    this.#left[node] = this.#grow(targets, drawn, from, low);
    this.#right[node] = this.#grow(targets, drawn, low, to);
    return node;
  }

  /** Of a draw of features that vary here, each with a border drawn at random, the one that leaves the smallest sum of squares. */
  #bestSplit(
    targets: Float64Array,
    drawn: Int32Array,
    from: number,
    to: number,
    sum: number,
  ): { feature: number; border: number } | undefined {
    const count = to - from;
    let best: { feature: number; border: number } | undefined;
    let bestGain = (sum * sum) / count + 1e-12;
    let tried = 0;
    for (let k = 0; k < this.#shuffled.length && tried < this.#tries; k++) {
      const swap = k + this.#random.below(this.#shuffled.length - k);
      const feature = this.#shuffled[swap] as number;
      this.#shuffled[swap] = this.#shuffled[k] as number;
      this.#shuffled[k] = feature;
      const column = this.#fitted[feature] as Uint8Array;
      let lowest = 255;
      let highest = 0;
      for (let i = from; i < to; i++) {
        const rank = column[drawn[i] as number] as number;
        if (rank < lowest) lowest = rank;
        if (rank > highest) highest = rank;
      }
      if (lowest === highest) continue;
      tried++;
      const border = lowest + this.#random.below(highest - lowest);
      let leftSum = 0;
      let leftCount = 0;
      for (let i = from; i < to; i++) {
        const entry = drawn[i] as number;
        if ((column[entry] as number) > border) continue;
        leftSum += targets[entry] as number;
        leftCount++;
      }
      if (leftCount < this.#minLeaf || count - leftCount < this.#minLeaf) continue;
      const rightSum = sum - leftSum;
      const gain = (leftSum * leftSum) / leftCount + (rightSum * rightSum) / (count - leftCount);
      if (gain <= bestGain) continue;
      bestGain = gain;
      best = { feature, border };
    }
    return best;
  }

  #reserve(nodes: number): void {
    if (this.#feature.length >= nodes) return;
    this.#feature = new Int16Array(2 * nodes);
    this.#border = new Uint8Array(2 * nodes);
    this.#left = new Int32Array(2 * nodes);
    this.#right = new Int32Array(2 * nodes);
    this.#mean = new Float64Array(2 * nodes);
    this.#variance = new Float64Array(2 * nodes);
  }
}
