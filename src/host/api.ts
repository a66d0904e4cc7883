/**
 * The public types of a generated package. This file holds declarations alone and imports nothing: its text becomes part of the package's
 * own index.d.ts, where `ModelInfo` is narrowed to the model's literal sizes.
 */

/** One turn of a chat. */
export interface Message {
  role: "system" | "user" | "assistant" | "tool";
  content: string;
  /** Calls that an assistant turn made; only templates with a tool grammar take them. */
  toolCalls?: readonly ToolCallResult[];
}

export interface ToolCallResult {
  name: string;
  arguments: unknown;
}

/** How tokens are chosen. What is left out comes from the model's generation_config.json, else from the defaults given here. */
export interface SamplingOptions {
  /** 0 is greedy: the exact argmax, the lowest id on ties. Default 1. */
  temperature?: number;
  /** Keeps the smallest set of tokens whose probability reaches this, in (0, 1]. Default 1. */
  topP?: number;
  /** Keeps the k most probable tokens; 0 keeps all. Default 0. */
  topK?: number;
  /** Drops tokens less probable than this share of the best one's, in [0, 1]. Default 0. */
  minP?: number;
  /** Divides (or multiplies, below zero) logits of tokens seen in prompt or output; > 0. Default 1. */
  repetitionPenalty?: number;
  /** Subtracted for each time a token was generated. Default 0. */
  frequencyPenalty?: number;
  /** Subtracted once a token was generated. Default 0. */
  presencePenalty?: number;
  /** Added to the logits of single tokens, by id. */
  logitBias?: Readonly<Record<number, number>>;
  /** Same seed, same prompt, same options: same text. Default: random. */
  seed?: number;
}

export interface GenerateOptions extends SamplingOptions {
  /** Most tokens to generate, at least 1. Default: up to the end of the context. */
  maxTokens?: number;
  /** Fewest tokens before a stop token may come. Default 0. */
  minTokens?: number;
  /** Ends the text before the first of these. */
  stop?: string | readonly string[];
  /** Ends at these ids besides the model's own. */
  stopIds?: readonly number[];
  /** Gives the log probability of each token and of this many alternatives, 0 to 20. */
  logprobs?: number;
  /** Stops the generation; the iterable then ends with `finishReason: "cancelled"`. */
  signal?: AbortSignal;
}

export interface ChatOptions extends GenerateOptions {
  /** Ends the prompt with the opening of an assistant turn. Default true. */
  addGenerationPrompt?: boolean;
  /** More for a model folder's own Jinja template: `tools`, `enable_thinking` and the like. */
  templateVariables?: Readonly<Record<string, unknown>>;
}

export interface TokenLogprob {
  id: number;
  /** Natural log of the probability before penalties and temperature. */
  logprob: number;
  top: { id: number; logprob: number }[];
}

/** A piece of generated text. */
export interface Piece {
  /** Whole characters only; may be empty while a character or a stop string is still incomplete. */
  text: string;
  ids: number[];
  logprobs?: TokenLogprob[];
  /** What a thinking model thought; `text` is then its answer. */
  reasoning?: string;
  toolCalls?: ToolCallResult[];
}

export interface Usage {
  promptTokens: number;
  /** Prompt tokens whose keys and values were still in the cache. */
  cachedTokens: number;
  completionTokens: number;
}

/** Milliseconds. */
export interface Timings {
  /** From the call to the first step that worked on it. */
  queue: number;
  /** From the first step to the first token. */
  prefill: number;
  /** From the first token to the last. */
  decode: number;
}

/** The last item of every generation. */
export interface Finish extends Piece {
  finishReason: "stop" | "length" | "cancelled";
  usage: Usage;
  timings: Timings;
}

export interface LoadOptions {
  /** Threads of the engine. Default: the package's, else all cores that this process may use. */
  threads?: number;
  /** Tokens that the KV cache holds for all sequences together. Default: the package's. */
  kvTokens?: number;
  /** Prompt tokens that one step takes, at most the package's. Default: the package's. */
  prefillChunk?: number;
  /** Checks every byte of the package, weights too. Default false: weights by size and header. */
  verify?: boolean;
  /** `map` leaves weights in the page cache, `copy` reads them into huge pages. Default: what is faster here. */
  weights?: "auto" | "map" | "copy";
}

export interface LogitsOptions {
  /** Tokens a step: 1 goes through decode, more through prefill. Default: the package's prefill chunk. */
  chunk?: number;
  /** Also gives the hidden states and router tensors, by name. */
  trace?: boolean;
  /** Continues greedily for this many tokens. Default 0. */
  greedy?: number;
}

export interface NamedTensor {
  /** f32 values or i32 ids, row-major. */
  data: Float32Array | Int32Array;
  shape: number[];
}

export interface LogitsResult {
  /** f32 [tokens, vocabSize]. */
  logits: NamedTensor;
  /** With `trace`: `hidden.<layer>`, `final_norm`, `router.<layer>.logits` and so on. */
  trace: Record<string, NamedTensor>;
  /** With `greedy`: ids i32 [n], and the logits f32 [n, vocabSize] that each was taken from. */
  greedy?: { ids: NamedTensor; logits: NamedTensor };
}

export interface ModelInfo {
  /** Name of the architecture in its config. */
  architecture: string;
  parameters: number;
  layers: number;
  hiddenSize: number;
  vocabSize: number;
  experts: number;
  takesImages: boolean;
}

export interface EngineInfo {
  model: ModelInfo;
  /** Compiled for. */
  target: string;
  arch: string;
  activations: string;
  threads: number;
  /** Longest prompt and completion together, in tokens. */
  maxContext: number;
  /** Prompt rows of a step. */
  prefillChunk: number;
  maxBatch: number;
  kvTokens: number;
  kvBlockSize: number;
  kvFreeBlocks: number;
  weightBytes: number;
  /** Multiplications and additions of the matrix products for one token of a prompt, without attention and head. */
  promptOperations: number;
  /** Bytes of weights that decoding one token of one sequence reads. */
  decodeBytes: number;
  /** Bytes of weights that a decode step of 1, 2, 4, ..., `maxBatch` sequences reads, experts as often as evenly spread routing chooses them. */
  decodeBytesByBatch: number[];
  kvBytesPerToken: number;
  version: string;
  buildId: string;
}

/** Text that must stay text (`user`), or text in which special tokens count (`template`). */
export interface PromptSegment {
  kind: "template" | "user";
  text: string;
}

export interface ProfileOptions {
  /** Sequences, at most `info.maxBatch`. Default 1. */
  batch?: number;
  /** 1, the default: a step of decode; more: of prefill, so many rows of each sequence. */
  rows?: number;
  /** Tokens of each sequence after the step. Default 128, at least `rows`. */
  context?: number;
}

export interface StepProfile {
  /** The step as it is usually run, in us; on a GPU its launches overlap. Medians of several steps. */
  stepUs: number;
  /** In the order of their first launches; `us` is of all launches of a step, each timed from the end of the one before it. */
  kernels: { kernel: string; launches: number; us: number }[];
}

export interface Engine extends AsyncDisposable {
  readonly info: EngineInfo;
  /** Continues a prompt: text (never read as special tokens), segments, or token ids. */
  generate(
    prompt: string | readonly PromptSegment[] | readonly number[] | Int32Array,
    options?: GenerateOptions,
  ): AsyncIterable<Piece | Finish>;
  /** Answers a conversation, through the model's chat template. */
  chat(messages: readonly Message[], options?: ChatOptions): AsyncIterable<Piece | Finish>;
  /** Logits of every position of a sequence of ids; nothing of it stays in the cache. */
  logits(ids: readonly number[] | Int32Array, options?: LogitsOptions): Promise<LogitsResult>;
  /** Times the kernels of a step over made-up sequences; requests stand still meanwhile. */
  profile(options?: ProfileOptions): Promise<StepProfile>;
  tokenize(text: string | readonly PromptSegment[]): Int32Array;
  detokenize(ids: readonly number[] | Int32Array, options?: { keepSpecials?: boolean }): string;
  /** Cancels what runs, frees everything. Safe to call twice. */
  dispose(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}
