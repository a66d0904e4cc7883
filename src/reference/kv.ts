/** The KV cache of one layer as the reference sees it: keys and values by slot. Appending changes it in place: the graph uses each state once. */

import { bug } from "../diagnostics.js";
import type { DType } from "../ir/types.js";
import { floats, type RefData, refTensor } from "./tensor.js";

export interface KvEntry {
  /** [heads * headDim], rounded to the cache's dtype. */
  readonly k: Float32Array;
  readonly v: Float32Array;
}

export class KvStore {
  readonly #slots = new Map<number, KvEntry>();

  constructor(
    readonly dtype: DType,
    readonly heads: number,
    readonly headDim: number,
  ) {}

  put(slot: number, k: RefData, v: RefData): void {
    const width = [this.heads * this.headDim];
    this.#slots.set(slot, { k: floats(refTensor(this.dtype, width, k)), v: floats(refTensor(this.dtype, width, v)) });
  }

  get(slot: number): KvEntry {
    const entry = this.#slots.get(slot);
    if (!entry) throw bug(`attention reads slot ${slot} of the cache, which was never written`);
    return entry;
  }

  /** A copy that later appends don't reach. */
  clone(): KvStore {
    const copy = new KvStore(this.dtype, this.heads, this.headDim);
    for (const [slot, entry] of this.#slots) copy.#slots.set(slot, entry);
    return copy;
  }

  /** All entries by slot, to compare two caches. */
  entries(): readonly (readonly [number, KvEntry])[] {
    return [...this.#slots].sort(([a], [b]) => a - b);
  }
}
