/**
 * A model folder's own chat template, rendered by @huggingface/jinja in a process of its own (run-jinja.ts): the template is data from
 * somebody else's folder and may loop or grow for ever.
 *
 * Rendering gives one string, in which text of the template and of the users is mixed. So that a user's text never becomes a special token,
 * each special inside a message is replaced by a mark that nobody can guess before rendering, and becomes a `user` segment after it.
 * A message that starts or ends in part of a special gets an empty mark there, so that it cannot be completed by what stands beside it.
 */

import { randomUUID } from "node:crypto";
import { Diagnostic } from "../../diagnostics.js";
import { type ChatMessage, checkMessages, type Segment, SegmentList, type TemplateOptions } from "./messages.js";
import { runJinja } from "./run-jinja.js";

export interface JinjaTemplate {
  readonly source: string;
  /** Names that the template may use: bos_token, cls_token, sep_token, ... */
  readonly variables: Readonly<Record<string, string>>;
  /** Strings that are special tokens for this model. */
  readonly specials: readonly string[];
  /** The built file of jinja-worker.ts. */
  readonly worker: string;
  /** Milliseconds until the template counts as hanging. Default 5000. */
  readonly deadline?: number;
}

export async function renderJinja(
  template: JinjaTemplate,
  messages: readonly ChatMessage[],
  { addGenerationPrompt = true, ...more }: TemplateOptions & Readonly<Record<string, unknown>> = {},
): Promise<readonly Segment[]> {
  checkMessages(messages, ["system", "user", "assistant", "tool"]);
  const marks = new Marks(template.specials);
  const marked = messages.map((message) => ({ ...message, content: marks.hide(message.content) }));
  const text = await renderInWorker(template, {
    ...more,
    ...template.variables,
    messages: marked,
    add_generation_prompt: addGenerationPrompt,
  });
  return marks.segments(text);
}

/** Replaces specials in user text by marks, and finds the marks again in rendered text. */
class Marks {
  readonly #nonce = randomUUID();
  readonly #hidden: string[] = [];
  readonly #specials: readonly string[];

  constructor(specials: readonly string[]) {
    this.#specials = specials.filter((special) => special !== "").sort((a, b) => b.length - a.length);
  }

  hide(content: string): string {
    let out = "";
    let at = 0;
    while (at < content.length) {
      const special = this.#specials.find((candidate) => content.startsWith(candidate, at));
      out += special === undefined ? content[at] : this.#mark(special);
      at += special?.length ?? 1;
    }
    const opensInside = this.#specials.some((special) => overlaps(special, content));
    const endsInside = this.#specials.some((special) => overlaps(content, special));
    return (opensInside ? this.#mark("") : "") + out + (endsInside ? this.#mark("") : "");
  }

  segments(text: string): readonly Segment[] {
    const list: Segment[] = [];
    let run = new SegmentList();
    text.split(new RegExp(`\\[${this.#nonce}:(\\d+)\\]`)).forEach((part, i) => {
      if (i % 2 === 0) run.template(part);
      else {
        // An empty mark keeps its neighbours apart: each run of segments is closed on its own.
        list.push(...run.finish(), { kind: "user", text: this.#hidden[Number(part)] ?? "" });
        run = new SegmentList();
      }
    });
    return [...list, ...run.finish()];
  }

  #mark(text: string): string {
    this.#hidden.push(text);
    return `[${this.#nonce}:${this.#hidden.length - 1}]`;
  }
}

/** True if a proper, non-empty end of `a` is a start of `b`. */
function overlaps(a: string, b: string): boolean {
  for (let n = Math.min(a.length, b.length) - 1; n > 0; n--) {
    if (b.startsWith(a.slice(a.length - n))) return true;
  }
  return false;
}

async function renderInWorker({ source, worker, deadline }: JinjaTemplate, context: Readonly<Record<string, unknown>>): Promise<string> {
  const answer = await runJinja(worker, { template: source, contexts: [context] }, deadline);
  if ("error" in answer) {
    throw new Diagnostic({
      code: "chat-template",
      message: `the chat template failed: ${answer.error}`,
      place: "chat_template",
      hint: "give the prompt as text to generate() instead",
    });
  }
  return answer.texts[0] as string;
}
