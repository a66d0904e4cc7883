/**
 * Sequences with a past on top of `Program`: makes a step's inputs (ids, positions, slots, ...; text only) and keeps the caches, so that a
 * prompt can be fed at once, token by token or in chunks. Blocks of a sequence do not lie side by side, so a wrong block table shows.
 */

import type { Graph } from "../ir/graph.js";
import { Program } from "./evaluate.js";
import { KvStore } from "./kv.js";
import type { Environment, RefValue } from "./meaning.js";
import { type RefTensor, refTensor } from "./tensor.js";

/** New tokens of one sequence. */
export interface Chunk {
  readonly sequence: number;
  readonly ids: readonly number[];
}

/** One chunk with where it goes. */
export interface PlacedChunk {
  readonly ids: readonly number[];
  /** Tokens of the sequence that are in the cache already. */
  readonly past: number;
  readonly blocks: readonly number[];
}

export class ReferenceSession {
  readonly #caches = new Map<string, KvStore>();
  readonly #programs = new Map<Graph, Program>();
  readonly #lengths = new Map<number, number>();
  readonly #blocks = new Map<number, number[]>();
  #nextBlock = 0;

  constructor(private readonly environment: Environment) {}

  /** Runs one step of `graph`; results by name, caches left out. */
  step(graph: Graph, chunks: readonly Chunk[]): { [name: string]: RefTensor } {
    const placed = chunks.map((chunk) => this.#place(chunk));
    const inputs: { [name: string]: RefValue } = { ...stepInputs(placed, this.environment.blockSize) };
    for (const { name, value } of graph.params) {
      if (value.type.kind === "kv") inputs[name] = this.#cache(name, value.type);
    }
    const program = this.#programs.get(graph) ?? new Program(graph, this.environment);
    this.#programs.set(graph, program);
    const results = program.run(inputs);
    for (const { sequence, ids } of chunks) this.#lengths.set(sequence, (this.#lengths.get(sequence) ?? 0) + ids.length);
    const tensors: { [name: string]: RefTensor } = {};
    for (const [name, value] of Object.entries(results)) if (!(value instanceof KvStore)) tensors[name] = value;
    return tensors;
  }

  #place({ sequence, ids }: Chunk): PlacedChunk {
    const past = this.#lengths.get(sequence) ?? 0;
    const blocks = this.#blocks.get(sequence) ?? [];
    this.#blocks.set(sequence, blocks);
    const needed = Math.ceil((past + ids.length) / this.environment.blockSize);
    // Every other block is skipped.
    for (; blocks.length < needed; this.#nextBlock += 2) blocks.push(this.#nextBlock);
    return { ids, past, blocks };
  }

  #cache(name: string, { dtype, heads, headDim }: KvStore | Extract<Graph["params"][number]["value"]["type"], { kind: "kv" }>): KvStore {
    const cache = this.#caches.get(name) ?? new KvStore(dtype, heads, headDim);
    this.#caches.set(name, cache);
    return cache;
  }
}

/** The inputs of a step under the names that programs give their parameters. */
export function stepInputs(chunks: readonly PlacedChunk[], blockSize: number): { [name: string]: RefTensor } {
  const ids = chunks.flatMap((chunk) => chunk.ids);
  const positions = chunks.flatMap((chunk) => chunk.ids.map((_, i) => chunk.past + i));
  const slots = chunks.flatMap(({ past, blocks, ids }) =>
    ids.map((_, i) => (blocks[Math.floor((past + i) / blockSize)] as number) * blockSize + ((past + i) % blockSize)),
  );
  const starts = [0];
  for (const chunk of chunks) starts.push((starts.at(-1) as number) + chunk.ids.length);
  const stride = Math.max(...chunks.map(({ blocks }) => blocks.length));
  const table = chunks.flatMap(({ blocks }) => Array.from({ length: stride }, (_, i) => blocks[i] ?? 0));
  const ints = (shape: readonly number[], values: readonly number[]) => refTensor("i32", shape, values);
  return {
    ids: ints([ids.length], ids),
    positions: ints(
      [ids.length, 3],
      positions.flatMap((position) => [position, position, position]),
    ),
    slots: ints([ids.length], slots),
    kinds: ints(
      [ids.length],
      ids.map(() => 0),
    ),
    query_start: ints([chunks.length + 1], starts),
    context: ints(
      [chunks.length],
      chunks.map((chunk) => chunk.past + chunk.ids.length),
    ),
    block_table: ints([chunks.length, stride], table),
    last_rows: ints(
      [chunks.length],
      starts.slice(1).map((end) => end - 1),
    ),
  };
}
