/**
 * The engine of a generated package as JavaScript sees it: options checked, prompts built from segments, tokens as async iterables.
 * All else (tokenizer, batching, sampling, cache) is C++ behind the addon.
 */

import { Diagnostic } from "../diagnostics.js";
import { Answers } from "./answers.js";
import type {
  ChatOptions,
  Engine,
  EngineInfo,
  Finish,
  GenerateOptions,
  LoadOptions,
  LogitsOptions,
  LogitsResult,
  Message,
  Piece,
  ProfileOptions,
  PromptSegment,
  StepProfile,
} from "./api.js";
import { ernieText } from "./chat/ernie-text.js";
import { ernieThinking } from "./chat/ernie-thinking.js";
import { renderJinja } from "./chat/jinja.js";
import type { Segment } from "./chat/messages.js";
import { LogitsCollector } from "./logits.js";
import type { NativeBinding, NativeEngine, NativeSubmit } from "./native.js";
import {
  checkIds,
  checkSegments,
  type GenerationDefaults,
  inRange,
  invalidOption,
  resolveLogitsOptions,
  resolveOptions,
} from "./options.js";
import { PackageFiles, packageChanged, REBUILD } from "./package-files.js";
import { stream } from "./stream.js";

/** Where a package lies and what its generated index.js knows of it. */
export interface PackageInfo {
  /** Absolute path of the package folder, the one with manifest.json. */
  readonly root: string;
  /** `build-<hash>`. */
  readonly build: string;
}

/** chat.json of a package: which template it speaks. */
export interface ChatConfig {
  readonly format: 1;
  readonly form: "ernie-text" | "ernie-thinking" | "jinja";
  /** The folder's own template, for form `jinja`. */
  readonly source?: string;
  readonly variables?: Readonly<Record<string, string>>;
  readonly specials?: readonly string[];
  /** The vocabulary has the tokens of the Thinking form: reasoning and tool calls are split out of the text, whatever template it is. */
  readonly thinking?: boolean;
}

const WEIGHTS = { auto: 0, map: 1, copy: 2 } as const;
const LOAD_OPTIONS = ["threads", "kvTokens", "prefillChunk", "verify", "weights"];

export async function loadPackage({ root, build }: PackageInfo, options: LoadOptions = {}): Promise<Engine> {
  if (typeof options !== "object" || options === null) throw invalidOption("options", "an object", options);
  for (const name of Object.keys(options))
    if (!LOAD_OPTIONS.includes(name)) throw invalidOption(name, `one of ${LOAD_OPTIONS.join(", ")}`, name);
  const { threads = 0, kvTokens = 0, prefillChunk = 0, verify = false, weights = "auto" } = options;
  inRange("threads", threads, { min: 0, max: 1024, integer: true, fallback: 0 });
  inRange("kvTokens", kvTokens, { min: 0, max: 2 ** 31 - 1, integer: true, fallback: 0 });
  inRange("prefillChunk", prefillChunk, { min: 0, max: 2 ** 31 - 1, integer: true, fallback: 0 });
  if (typeof verify !== "boolean") throw invalidOption("verify", "true or false", verify);
  if (!Object.hasOwn(WEIGHTS, weights)) throw invalidOption("weights", '"auto", "map" or "copy"', weights);
  const files = await PackageFiles.open(root, build);
  await Promise.all([files.read("lib/ern_node.node"), files.read("lib/libern_model.so")]);
  const chat = JSON.parse((await files.read("chat.json")).toString()) as ChatConfig;
  const binding = loadBinding(files.path("lib/ern_node.node"));
  const library = files.path("lib/libern_model.so");
  const native = await asDiagnostic(
    binding.createEngine(library, root, { threads, kvTokens, prefillChunk, verify, weights: WEIGHTS[weights] }),
    { place: root, loading: true, hint: REBUILD },
  );
  return new PackageEngine(native, chat, files.path("jinja-worker.cjs"));
}

function loadBinding(file: string): NativeBinding {
  const module = { exports: {} as unknown };
  try {
    // Not require(): the bundle is CommonJS inside and outside, and dlopen names its error plainly.
    process.dlopen(module, file);
  } catch (error) {
    throw new Diagnostic({
      code: "addon-load",
      kind: "environment",
      place: file,
      message: error instanceof Error ? error.message : String(error),
      hint: "build the package again on this machine with `ernie-compile build`",
      cause: error,
    });
  }
  return module.exports as NativeBinding;
}

/** What a call of the addon was about, for its errors. */
interface CallContext {
  readonly place: string;
  /** While a package is loaded, a file that is missing or not as expected is a package that was changed. */
  readonly loading?: boolean;
  readonly hint?: string;
}

/** Errors of the addon carry the status name in `code`; they become diagnostics. */
async function asDiagnostic<T>(work: Promise<T>, context: CallContext): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw nativeError(error, context);
  }
}

const HINTS: Readonly<Record<string, string>> = {
  OUT_OF_MEMORY: "give the engine less: kvTokens and threads when it is loaded, --max-context and --max-batch when it is built",
  BUSY: "try again when some requests are done",
  IO: "check that this process may read the package",
  DEVICE: "the engine has ended: dispose of it; what a process has lost of a GPU comes back when it is started again",
};

const LACKING = "build the package again, from a model folder that has what is missing";
const OTHER_MACHINE =
  "a package runs on the kind of machine that it was built for: run it there, or build it again for this one; `ernie-compile doctor` shows what a machine has";

function nativeError(error: unknown, { place, loading = false, hint }: CallContext): unknown {
  if (!(error instanceof Error) || error instanceof Diagnostic) return error;
  const status = "code" in error && typeof error.code === "string" ? error.code : "INTERNAL";
  if (loading && (status === "CORRUPT" || status === "NOT_FOUND")) return packageChanged(place, error.message, error);
  const kind = status === "INTERNAL" ? "bug" : status === "UNSUPPORTED" ? "unsupported" : status === "DEVICE" ? "environment" : "input";
  const code = status.toLowerCase().replaceAll("_", "-");
  return new Diagnostic({
    code,
    kind,
    message: error.message,
    place,
    hint: HINTS[status] ?? (status === "UNSUPPORTED" ? (loading ? OTHER_MACHINE : LACKING) : hint),
    cause: error,
  });
}

const PROMPT: CallContext = {
  place: "prompt",
  hint: "a prompt has at least one token, and fewer than engine.info.maxContext: shorten it, or build with a larger --max-context",
};

class PackageEngine implements Engine {
  readonly #native: NativeEngine;
  readonly #chat: ChatConfig;
  readonly #worker: string;
  readonly #defaults: GenerationDefaults;
  readonly #vocabSize: number;
  readonly #answers = new Answers();
  /** All of `info` but what changes while the engine runs. */
  readonly #facts: Omit<EngineInfo, "kvFreeBlocks">;
  #disposed: Promise<void> | undefined;

  constructor(native: NativeEngine, chat: ChatConfig, worker: string) {
    this.#native = native;
    this.#chat = chat;
    this.#worker = worker;
    const { json } = native.info();
    const { generation = {}, ...facts } = JSON.parse(json) as Omit<EngineInfo, "kvFreeBlocks"> & { generation?: GenerationDefaults };
    this.#facts = facts;
    this.#defaults = generation;
    this.#vocabSize = facts.model.vocabSize;
  }

  get info(): EngineInfo {
    return { ...this.#facts, kvFreeBlocks: this.#live().info().kvFreeBlocks };
  }

  generate(
    prompt: string | readonly PromptSegment[] | readonly number[] | Int32Array,
    options: GenerateOptions = {},
  ): AsyncIterable<Piece | Finish> {
    const request = this.#request(options);
    return this.#stream({ ...request, ...this.#prompt(prompt), keepSpecials: false }, options, false);
  }

  async *chat(messages: readonly Message[], options: ChatOptions = {}): AsyncGenerator<Piece | Finish, void, undefined> {
    const request = this.#request(options);
    const thinking = this.#chat.form === "ernie-thinking" || this.#chat.thinking === true;
    const segments = await this.#render(messages, options);
    let text = "";
    const ids: number[] = [];
    for await (const piece of this.#stream({ ...request, segments, keepSpecials: thinking }, options, thinking)) {
      text += piece.text;
      ids.push(...piece.ids);
      // Before the reader sees the end: it may leave the loop there.
      if ("finishReason" in piece && !thinking) this.#rememberAnswer(text, Int32Array.from(ids));
      yield piece;
    }
  }

  async logits(ids: readonly number[] | Int32Array, options: LogitsOptions = {}): Promise<LogitsResult> {
    const native = this.#live();
    const { chunk, trace, greedy } = resolveLogitsOptions(options);
    const checked = checkIds("ids", ids, this.#vocabSize);
    if (checked.length === 0) throw invalidOption("ids", "at least one token id", ids);
    const { maxContext } = this.#facts;
    // Before memory for the results is asked for.
    if (checked.length + greedy > maxContext)
      throw invalidOption("ids", `at most ${maxContext} tokens together with the greedy ones`, checked.length + greedy);
    const collector = new LogitsCollector(checked.length, this.#vocabSize, greedy);
    await asDiagnostic(
      native.logits(checked, chunk, trace, greedy, (part) => collector.add(part)),
      PROMPT,
    );
    return collector.result();
  }

  async profile(options: ProfileOptions = {}): Promise<StepProfile> {
    const native = this.#live();
    if (typeof options !== "object" || options === null) throw invalidOption("options", "an object", options);
    const whole = { min: 1, max: 2 ** 31 - 1, integer: true, fallback: 1 };
    const batch = inRange("batch", options.batch ?? 1, whole);
    const rows = inRange("rows", options.rows ?? 1, whole);
    const context = inRange("context", options.context ?? Math.max(128, rows), whole);
    const [step, ...kernels] = await asDiagnostic(native.profile(batch, rows, context), {
      place: "options",
      hint: "engine.info says what fits: maxBatch, maxContext, kvTokens",
    });
    return { stepUs: step?.us ?? 0, kernels };
  }

  tokenize(text: string | readonly PromptSegment[]): Int32Array {
    const segments = typeof text === "string" ? [{ kind: "user" as const, text }] : checkSegments("text", text);
    return this.#call(() => this.#live().tokenize(segments), { place: "text", hint: "pass well-formed text" });
  }

  detokenize(ids: readonly number[] | Int32Array, options: { keepSpecials?: boolean } = {}): string {
    if (typeof options !== "object" || options === null) throw invalidOption("options", "an object", options);
    const checked = checkIds("ids", ids, this.#vocabSize);
    return this.#call(() => this.#live().detokenize(checked, options.keepSpecials === true), {
      place: "ids",
      hint: "pass ids of this model",
    });
  }

  dispose(): Promise<void> {
    this.#disposed ??= this.#native.dispose();
    return this.#disposed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #call<T>(work: () => T, context: CallContext): T {
    try {
      return work();
    } catch (error) {
      throw nativeError(error, context);
    }
  }

  #live(): NativeEngine {
    if (this.#disposed)
      throw new Diagnostic({ code: "engine-disposed", message: "the engine was disposed of", hint: "load() the package again" });
    return this.#native;
  }

  #request(options: GenerateOptions) {
    return resolveOptions(options, this.#defaults, this.#vocabSize);
  }

  #prompt(prompt: string | readonly PromptSegment[] | readonly number[] | Int32Array): Pick<NativeSubmit, "ids" | "segments"> {
    if (typeof prompt === "string") return { segments: [{ kind: "user", text: prompt }] };
    if (prompt instanceof Int32Array || (Array.isArray(prompt) && typeof prompt[0] === "number")) {
      return { ids: checkIds("prompt", prompt as readonly number[], this.#vocabSize) };
    }
    if (Array.isArray(prompt)) return { segments: checkSegments("prompt", prompt as readonly PromptSegment[]) };
    throw invalidOption("prompt", "a string, segments or token ids", prompt);
  }

  /** For the next turn; the last id may be a stop id, which is no part of the text. */
  #rememberAnswer(text: string, ids: Int32Array): void {
    if (this.#disposed) return;
    for (const answer of [ids, ids.subarray(0, -1)]) {
      if (answer.length > 0 && this.#native.detokenize(answer, true) === text) return this.#answers.remember(text, answer);
    }
  }

  #render(
    messages: readonly Message[],
    { addGenerationPrompt = true, templateVariables }: ChatOptions,
  ): Promise<readonly Segment[]> | readonly Segment[] {
    const { form, source = "", variables = {}, specials = [] } = this.#chat;
    if (form === "jinja") {
      return renderJinja({ source, variables, specials, worker: this.#worker }, messages, { ...templateVariables, addGenerationPrompt });
    }
    if (templateVariables) {
      throw new Diagnostic({
        code: "generate-option",
        kind: "unsupported",
        place: "templateVariables",
        message: `this model speaks the ${form} template, which has no variables`,
        hint: "how the released models list tools is not published: put them into the system message",
      });
    }
    const answerIds = (content: string) => this.#answers.find(content);
    return form === "ernie-text"
      ? ernieText(messages, { addGenerationPrompt, answerIds })
      : ernieThinking(messages, { addGenerationPrompt });
  }

  async *#stream(submit: NativeSubmit, { signal }: GenerateOptions, thinking: boolean): AsyncGenerator<Piece | Finish, void, undefined> {
    const native = this.#live();
    try {
      yield* stream((onEvent) => native.submit(submit, onEvent), { signal, thinking });
    } catch (error) {
      throw nativeError(error, PROMPT);
    }
  }
}
