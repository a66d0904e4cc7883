/**
 * The template of ERNIE-4.5-21B-A3B-Thinking, and the reader of what that model writes.
 *
 *     system    := "<|im_start|>system\n" ["<system_setting>\n" content "\n</system_setting>\n\n"]
 *                  "<global_setting>\nthink_mode=True\n</global_setting><|im_end|>\n\n"                always present
 *     user      := "<|im_start|>user\n" content "<|im_end|>\n\n"
 *     assistant := "<|im_start|>assistant\n<response>\n" content "\n</response>\n<|im_end|>\n\n"      history drops reasoning
 *     tool      := "<|im_start|>tool\n" content "<|im_end|>\n\n"
 *     prompt    := system turn* ["<|im_start|>assistant\n<think>\n"]
 *     model     -> reasoning "\n</think>\n\n" ("<response>\n" answer "\n</response>\n" | ("<tool_call>\n" json "\n</tool_call>\n")+) <|im_end|>
 *
 * How tools are listed in the system turn is not published: a folder's own Jinja template is used for that.
 */

import { type ChatTemplate, checkMessages, SegmentList, type ToolCall } from "./messages.js";

export const ernieThinking: ChatTemplate = (messages, { addGenerationPrompt = true } = {}) => {
  checkMessages(messages, ["system", "user", "assistant", "tool"]);
  const prompt = new SegmentList().template("<|im_start|>system\n");
  const system = messages[0]?.role === "system" ? messages[0] : undefined;
  if (system) prompt.template("<system_setting>\n").user(system.content).template("\n</system_setting>\n\n");
  prompt.template("<global_setting>\nthink_mode=True\n</global_setting><|im_end|>\n\n");
  for (const { role, content, toolCalls } of system ? messages.slice(1) : messages) {
    prompt.template(`<|im_start|>${role}\n`);
    if (role !== "assistant") prompt.user(content);
    else if (toolCalls && toolCalls.length > 0) {
      for (const call of toolCalls) prompt.template("<tool_call>\n").user(JSON.stringify(call)).template("\n</tool_call>\n");
    } else prompt.template("<response>\n").user(withoutReasoning(content)).template("\n</response>\n");
    prompt.template("<|im_end|>\n\n");
  }
  if (addGenerationPrompt) prompt.template("<|im_start|>assistant\n<think>\n");
  return prompt.finish();
};

function withoutReasoning(content: string): string {
  const end = content.lastIndexOf("</think>");
  return end < 0 ? content : content.slice(end + "</think>".length).replace(/^\n+/, "");
}

/** What a stretch of the model's text turned out to be. */
export interface ThinkingPiece {
  readonly text: string;
  readonly reasoning: string;
  readonly toolCalls: readonly ToolCall[];
}

type State = "reasoning" | "between" | "answer" | "tool";

/** The tag that ends each state, and the tags that may open the next one from `between`. */
const CLOSES = { reasoning: "</think>", answer: "</response>", tool: "</tool_call>" } as const;
const OPENS = { "<response>": "answer", "<tool_call>": "tool", "<think>": "reasoning" } as const;

/**
 * Splits a stream of the model's text (special tokens kept) into reasoning, answer and tool calls. Starts inside the reasoning, since
 * the prompt ends in `<think>\n`. Text that could be the start of a tag, and newlines that the grammar may own, are held back until decided.
 * A tool call that is not JSON is given as answer text, so that nothing the model said is lost.
 */
export class ThinkingReader {
  #state: State = "reasoning";
  #held = "";
  /** The newline after an opening tag belongs to the tag, also when it comes in a later push. */
  #atOpening = false;

  push(text: string): ThinkingPiece {
    this.#held += text;
    return this.#drain(false);
  }

  finish(): ThinkingPiece {
    return this.#drain(true);
  }

  #drain(final: boolean): ThinkingPiece {
    const out = { text: "", reasoning: "", toolCalls: [] as ToolCall[] };
    while (this.#step(out, final)) {
      // each step consumes a tag or a stretch of text
    }
    return out;
  }

  #step(out: { text: string; reasoning: string; toolCalls: ToolCall[] }, final: boolean): boolean {
    if (this.#held === "") return false;
    if (this.#state === "between") return this.#open(final);
    if (this.#atOpening) {
      this.#held = this.#held.replace(/^\n/, "");
      this.#atOpening = false;
      return true;
    }
    const close = CLOSES[this.#state];
    const end = this.#held.indexOf(close);
    if (end >= 0) {
      const body = this.#held.slice(0, end);
      this.#held = this.#held.slice(end + close.length);
      this.#emit(out, body.replace(/\n+$/, ""));
      this.#state = "between";
      return true;
    }
    if (this.#state === "tool" && !final) return false;
    const keep = final ? 0 : undecided(this.#held, [close]);
    const ready = this.#held.slice(0, this.#held.length - keep);
    this.#held = this.#held.slice(ready.length);
    if (this.#state === "tool") out.text += ready;
    else this.#emit(out, ready);
    return false;
  }

  /** Between the parts: newlines are dropped, a tag opens the next part, anything else is answer text. */
  #open(final: boolean): boolean {
    const text = this.#held.replace(/^\n+/, "");
    this.#held = text;
    if (text === "") return false;
    for (const [tag, state] of Object.entries(OPENS)) {
      if (text.startsWith(tag)) {
        this.#held = text.slice(tag.length);
        this.#state = state;
        this.#atOpening = true;
        return true;
      }
      if (!final && tag.startsWith(text)) return false;
    }
    this.#state = "answer";
    return true;
  }

  #emit(out: { text: string; reasoning: string; toolCalls: ToolCall[] }, body: string): void {
    if (this.#state === "reasoning") out.reasoning += body;
    else if (this.#state === "answer") out.text += body;
    else {
      const call = parseToolCall(body);
      if (call) out.toolCalls.push(call);
      else out.text += body;
    }
  }
}

/** Length of the end of `text` that may still turn into one of the tags, newlines before it included. */
function undecided(text: string, tags: readonly string[]): number {
  let keep = 0;
  for (const tag of tags) {
    for (let n = Math.min(tag.length - 1, text.length); n > keep; n--) {
      if (tag.startsWith(text.slice(text.length - n))) keep = n;
    }
  }
  const newlines = /\n*$/.exec(text.slice(0, text.length - keep))?.[0].length ?? 0;
  return keep + newlines;
}

function parseToolCall(body: string): ToolCall | undefined {
  try {
    const value: unknown = JSON.parse(body);
    if (typeof value === "object" && value !== null && "name" in value && typeof value.name === "string") {
      return { name: value.name, arguments: "arguments" in value ? value.arguments : {} };
    }
  } catch {
    // not JSON: the caller keeps the text
  }
  return undefined;
}
