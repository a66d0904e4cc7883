/** Checks what a caller passes and fills in defaults: the package's generation defaults first, then the documented ones. */

import { Diagnostic } from "../diagnostics.js";
import type { ChatOptions, GenerateOptions, LogitsOptions, PromptSegment, SamplingOptions } from "./api.js";
import type { NativeSubmit } from "./native.js";

/** Sampling defaults of the package, from generation_config.json. */
export type GenerationDefaults = Pick<
  SamplingOptions,
  "temperature" | "topP" | "topK" | "minP" | "repetitionPenalty" | "frequencyPenalty" | "presencePenalty"
>;

interface Range {
  readonly min: number;
  readonly max: number;
  /** The lower end itself is not allowed. */
  readonly above?: boolean;
  readonly integer?: boolean;
  readonly fallback: number;
}

const INT32_MAX = 2 ** 31 - 1;

/** The one table of numeric options: range and default. */
const RANGES = {
  temperature: { min: 0, max: 100, fallback: 1 },
  topP: { min: 0, max: 1, above: true, fallback: 1 },
  topK: { min: 0, max: INT32_MAX, integer: true, fallback: 0 },
  minP: { min: 0, max: 1, fallback: 0 },
  repetitionPenalty: { min: 0, max: 100, above: true, fallback: 1 },
  frequencyPenalty: { min: -100, max: 100, fallback: 0 },
  presencePenalty: { min: -100, max: 100, fallback: 0 },
  maxTokens: { min: 1, max: INT32_MAX, integer: true, fallback: INT32_MAX },
  minTokens: { min: 0, max: INT32_MAX, integer: true, fallback: 0 },
  logprobs: { min: 0, max: 20, integer: true, fallback: 0 },
} as const satisfies Record<string, Range>;
type Numeric = keyof typeof RANGES;

const OTHERS = ["logitBias", "seed", "stop", "stopIds", "signal", "addGenerationPrompt", "templateVariables"];

export function invalidOption(name: string, expected: string, found: unknown): Diagnostic {
  return new Diagnostic({
    code: "generate-option",
    place: name,
    message: `found ${show(found)}, expected ${expected}`,
    hint: "the package's index.d.ts says what each option takes",
  });
}

/** Anything may have been passed, also what JSON can't say. */
function show(value: unknown): string {
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "number") return String(value);
  try {
    return (JSON.stringify(value) ?? String(value)).slice(0, 60);
  } catch {
    return typeof value;
  }
}

/** The request for the addon, without its prompt. */
export function resolveOptions(
  options: GenerateOptions,
  defaults: GenerationDefaults,
  vocabSize: number,
): Omit<NativeSubmit, "ids" | "segments" | "keepSpecials"> {
  if (typeof options !== "object" || options === null) throw invalidOption("options", "an object", options);
  for (const name of Object.keys(options)) {
    if (!(name in RANGES) && !OTHERS.includes(name))
      throw invalidOption(name, `one of ${[...Object.keys(RANGES), ...OTHERS].join(", ")}`, name);
  }
  const numeric = (name: Numeric): number => {
    const given = options[name] ?? (defaults as { [K in Numeric]?: number })[name];
    return given === undefined ? RANGES[name].fallback : inRange(name, given, RANGES[name]);
  };
  checkOthers(options);
  const bias = Object.entries(options.logitBias ?? {});
  const biasIds = bias.map(([id]) => tokenId(`logitBias[${JSON.stringify(id)}]`, Number(id), vocabSize));
  const biasValues = bias.map(([id, value]) => inRange(`logitBias[${id}]`, value, { min: -1e9, max: 1e9, fallback: 0 }));
  const stop = typeof options.stop === "string" ? [options.stop] : (options.stop ?? []);
  for (const text of stop) {
    // The C interface takes strings that end at NUL.
    if (typeof text !== "string" || text === "" || text.includes("\0"))
      throw invalidOption("stop", "strings that are neither empty nor hold NUL", text);
  }
  return {
    temperature: numeric("temperature"),
    topP: numeric("topP"),
    topK: numeric("topK"),
    minP: numeric("minP"),
    repetitionPenalty: numeric("repetitionPenalty"),
    frequencyPenalty: numeric("frequencyPenalty"),
    presencePenalty: numeric("presencePenalty"),
    maxTokens: numeric("maxTokens"),
    minTokens: numeric("minTokens"),
    logprobs: options.logprobs === undefined ? -1 : numeric("logprobs"),
    biasIds: Int32Array.from(biasIds),
    biasValues: Float32Array.from(biasValues),
    seed: seed(options.seed),
    stop,
    stopIds: checkIds("stopIds", options.stopIds ?? [], vocabSize),
  };
}

/** What is not a number: by type alone. */
function checkOthers({ logitBias, stop, signal, addGenerationPrompt, templateVariables }: ChatOptions): void {
  const isObject = (value: unknown) => typeof value === "object" && value !== null && !Array.isArray(value);
  if (logitBias !== undefined && !isObject(logitBias)) throw invalidOption("logitBias", "an object of values by token id", logitBias);
  if (stop !== undefined && typeof stop !== "string" && !Array.isArray(stop))
    throw invalidOption("stop", "a string or an array of strings", stop);
  // By shape: one of another realm or library is as good.
  if (signal !== undefined && (typeof signal?.aborted !== "boolean" || typeof signal.addEventListener !== "function"))
    throw invalidOption("signal", "an AbortSignal", signal);
  if (addGenerationPrompt !== undefined && typeof addGenerationPrompt !== "boolean")
    throw invalidOption("addGenerationPrompt", "true or false", addGenerationPrompt);
  if (templateVariables !== undefined && !isObject(templateVariables))
    throw invalidOption("templateVariables", "an object", templateVariables);
}

export function resolveLogitsOptions(options: LogitsOptions): Required<LogitsOptions> {
  if (typeof options !== "object" || options === null) throw invalidOption("options", "an object", options);
  for (const name of Object.keys(options))
    if (!["chunk", "trace", "greedy"].includes(name)) throw invalidOption(name, "one of chunk, trace, greedy", name);
  const { chunk = 0, trace = false, greedy = 0 } = options;
  inRange("chunk", chunk, { min: 0, max: INT32_MAX, integer: true, fallback: 0 });
  inRange("greedy", greedy, { min: 0, max: INT32_MAX, integer: true, fallback: 0 });
  if (typeof trace !== "boolean") throw invalidOption("trace", "true or false", trace);
  return { chunk, trace, greedy };
}

/** Ids as the addon takes them; out of range or not integers is refused. */
export function checkIds(place: string, ids: readonly number[] | Int32Array, vocabSize: number): Int32Array {
  if (!Array.isArray(ids) && !(ids instanceof Int32Array)) throw invalidOption(place, "an array of token ids", ids);
  ids.forEach((id, i) => {
    tokenId(`${place}[${i}]`, id, vocabSize);
  });
  return ids instanceof Int32Array ? ids : Int32Array.from(ids as readonly number[]);
}

export function checkSegments(place: string, prompt: readonly PromptSegment[]): readonly PromptSegment[] {
  if (!Array.isArray(prompt)) throw invalidOption(place, "a string or an array of segments", prompt);
  prompt.forEach((segment, i) => {
    const ok =
      typeof segment === "object" && segment !== null && typeof segment.text === "string" && ["template", "user"].includes(segment.kind);
    if (!ok) throw invalidOption(`${place}[${i}]`, '{ kind: "template" | "user", text }', segment);
  });
  return prompt;
}

function tokenId(place: string, id: unknown, vocabSize: number): number {
  if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= vocabSize)
    throw invalidOption(place, `a token id from 0 to ${vocabSize - 1}`, id);
  return id;
}

export function inRange(name: string, value: unknown, { min, max, above = false, integer = false }: Range): number {
  const ok = typeof value === "number" && (above ? value > min : value >= min) && value <= max && (!integer || Number.isInteger(value));
  if (!ok)
    throw invalidOption(
      name,
      `${integer ? "an integer" : "a number"} ${above ? "above" : "from"} ${min} ${above ? "up " : ""}to ${max}`,
      value,
    );
  return value;
}

function seed(given: number | undefined): bigint {
  if (given === undefined) return BigInt(Math.floor(Math.random() * 2 ** 53));
  if (!Number.isSafeInteger(given) || given < 0) throw invalidOption("seed", "an integer from 0 to 2^53 - 1", given);
  return BigInt(given);
}
