/**
 * What ern_node.node gives to JavaScript (runtime/node). The addon is the same for every model: it opens a package's library and
 * binds its table of functions. Everything slow runs off the main thread; failures arrive as errors with `code` set to the status name.
 */

import type { PromptSegment } from "./api.js";
import type { Segment } from "./chat/messages.js";

export interface NativeBinding {
  /** Loads the library of a package and creates an engine in it. Weights are loaded off the main thread. */
  createEngine(library: string, packageDir: string, options: NativeEngineOptions): Promise<NativeEngine>;
}

export interface NativeEngineOptions {
  threads: number;
  kvTokens: number;
  verify: boolean;
  /** 0 auto, 1 map, 2 copy. */
  weights: number;
  /** 0: the package's. */
  prefillChunk: number;
}

export interface NativeRequest {
  cancel(): void;
  /** Tells the engine that the reader took `tokens` tokens; a reader that doesn't stops its own sequence alone. */
  ack(tokens: number): void;
}

export interface NativeFinish {
  reason: "stop" | "length" | "cancelled" | "error";
  /** Set when reason is `error`. */
  message: string;
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
  queueMs: number;
  prefillMs: number;
  decodeMs: number;
}

export interface NativeEvent {
  text: string;
  ids: number[];
  /** For each id: its own log probability, and the most probable ids with theirs. */
  logprobs?: { logprob: number; topIds: number[]; topLogprobs: number[] }[];
  finish?: NativeFinish;
}

export interface NativeSubmit {
  ids?: Int32Array;
  segments?: readonly Segment[];
  maxTokens: number;
  minTokens: number;
  temperature: number;
  topP: number;
  topK: number;
  minP: number;
  repetitionPenalty: number;
  frequencyPenalty: number;
  presencePenalty: number;
  biasIds: Int32Array;
  biasValues: Float32Array;
  seed: bigint;
  stop: readonly string[];
  stopIds: Int32Array;
  logprobs: number;
  keepSpecials: boolean;
}

export interface NativeLogitsChunk {
  /** First token of the chunk; with `greedy`, the number of the greedy token that the one row gave. */
  start: number;
  greedy: boolean;
  rows: number;
  logits: Float32Array;
  /** The greedy choice after each row. */
  nextIds: Int32Array;
  trace: { name: string; cols: number; data: Float32Array | Int32Array }[];
}

export interface NativeEngine {
  /** `json`: what the compiler and the runtime know; the numbers: memory, now. */
  info(): { json: string; kvFreeBlocks: number; kvBlocks: number; kvBlockSize: number; weightBytes: number };
  submit(request: NativeSubmit, onEvent: (event: NativeEvent) => void): NativeRequest;
  tokenize(segments: readonly PromptSegment[]): Int32Array;
  detokenize(ids: Int32Array, keepSpecials: boolean): string;
  logits(ids: Int32Array, chunk: number, trace: boolean, greedy: number, onChunk: (chunk: NativeLogitsChunk) => void): Promise<void>;
  /** `kernel` is "" for the whole step. */
  profile(batch: number, rows: number, context: number): Promise<{ kernel: string; launches: number; us: number }[]>;
  dispose(): Promise<void>;
}
