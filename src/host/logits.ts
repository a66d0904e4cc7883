/** Joins what a forward pass gave chunk by chunk into whole tensors. */

import type { LogitsResult, NamedTensor } from "./api.js";
import type { NativeLogitsChunk } from "./native.js";

/** Collects the chunks of one pass. */
export class LogitsCollector {
  readonly #vocab: number;
  readonly #logits: Float32Array;
  readonly #traced: NativeLogitsChunk[] = [];
  readonly #greedyIds: Int32Array;
  readonly #greedyLogits: Float32Array;

  constructor(tokens: number, vocab: number, greedy: number) {
    this.#vocab = vocab;
    this.#logits = new Float32Array(tokens * vocab);
    this.#greedyIds = new Int32Array(greedy);
    this.#greedyLogits = new Float32Array(greedy * vocab);
  }

  add(chunk: NativeLogitsChunk): void {
    if (chunk.greedy) {
      this.#greedyIds[chunk.start] = chunk.nextIds[0] as number;
      this.#greedyLogits.set(chunk.logits, chunk.start * this.#vocab);
      return;
    }
    this.#logits.set(chunk.logits, chunk.start * this.#vocab);
    if (chunk.trace.length > 0) this.#traced.push({ ...chunk, logits: new Float32Array() });
  }

  result(): LogitsResult {
    const rows = (data: Float32Array): NamedTensor => ({ data, shape: [data.length / this.#vocab, this.#vocab] });
    const greedy = { ids: { data: this.#greedyIds, shape: [this.#greedyIds.length] }, logits: rows(this.#greedyLogits) };
    return { logits: rows(this.#logits), trace: joinTrace(this.#traced), ...(this.#greedyIds.length > 0 ? { greedy } : {}) };
  }
}

function joinTrace(chunks: readonly NativeLogitsChunk[]): Record<string, NamedTensor> {
  const names = chunks[0]?.trace.map((tensor) => tensor.name) ?? [];
  return Object.fromEntries(
    names.map((name, i) => [name, join(chunks.map((chunk) => ({ rows: chunk.rows, ...(chunk.trace[i] as Part) })))]),
  );
}

type Part = NativeLogitsChunk["trace"][number];

function join(parts: readonly (Part & { rows: number })[]): NamedTensor {
  const first = parts[0] as Part;
  const rows = parts.reduce((sum, part) => sum + part.rows, 0);
  const data = first.data instanceof Float32Array ? new Float32Array(rows * first.cols) : new Int32Array(rows * first.cols);
  let at = 0;
  for (const part of parts) {
    data.set(part.data, at);
    at += part.data.length;
  }
  return { data, shape: [rows, first.cols] };
}
