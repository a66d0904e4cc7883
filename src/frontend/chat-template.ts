/**
 * Which chat template a folder speaks. Its Jinja template is data from somebody else: where it says what one of the family's own templates says, that
 * one is used, which is code of ours; else the folder's is kept and rendered when the package runs, in a worker with a deadline.
 *
 * "Says the same" is found by rendering a few conversations both ways. A template that behaves in some other way elsewhere is then not used at all.
 */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { bug, Diagnostic } from "../diagnostics.js";
import { ernieText } from "../host/chat/ernie-text.js";
import { ernieThinking } from "../host/chat/ernie-thinking.js";
import type { JinjaInput, JinjaOutput } from "../host/chat/jinja-worker.js";
import { type ChatMessage, type ChatTemplate, type Segment, segmentText } from "../host/chat/messages.js";
import { runJinja } from "../host/chat/run-jinja.js";
import type { ChatConfig } from "../host/engine.js";
import { readFully, withFile } from "../weights/file.js";
import { isFile, isJsonObject, type Json, type JsonObject, readOptionalJsonObject } from "./json.js";

export type ChatForm = ChatConfig;

const OWN: readonly (readonly [ChatConfig["form"], ChatTemplate])[] = [
  ["ernie-text", ernieText],
  ["ernie-thinking", ernieThinking],
];

const TALK: readonly ChatMessage[] = [
  { role: "system", content: "a system text" },
  { role: "user", content: "a first question" },
  { role: "assistant", content: "an answer" },
  { role: "user", content: "a second question" },
];
const PROBES: readonly { readonly messages: readonly ChatMessage[]; readonly addGenerationPrompt: boolean }[] = [
  { messages: TALK.slice(1, 2), addGenerationPrompt: true },
  { messages: TALK, addGenerationPrompt: true },
  { messages: TALK.slice(0, 3), addGenerationPrompt: false },
];

/** Real templates have some kilobytes. */
const MAX_TEMPLATE_BYTES = 2 ** 20;

/** Beside this file once it is built; run from its source, as tests do, it takes the built one. */
const WORKERS = ["../host/chat/jinja-worker.js", "../../dist/host/chat/jinja-worker.js"].map((path) =>
  fileURLToPath(new URL(path, import.meta.url)),
);

/** The folder's template, from wherever transformers keeps it; undefined if there is none. */
export async function readChatTemplate(folder: string): Promise<string | undefined> {
  const file = join(folder, "chat_template.jinja");
  if (await isFile(file)) return readTemplateFile(file);
  for (const name of ["chat_template.json", "tokenizer_config.json"]) {
    const path = join(folder, name);
    const template = templateIn((await readOptionalJsonObject(path)) ?? {}, `${path}: chat_template`);
    if (template !== undefined) return template;
  }
  return undefined;
}

/** A text, or a list of named ones, of which `default` is meant. */
function templateIn(object: JsonObject, place: string): string | undefined {
  const value = object.chat_template ?? undefined;
  if (value === undefined || typeof value === "string") return value;
  if (Array.isArray(value)) {
    const entry = (value as readonly Json[]).find((item) => isJsonObject(item) && item.name === "default");
    if (isJsonObject(entry) && typeof entry.template === "string") return entry.template;
  }
  throw new Diagnostic({
    code: "chat-template",
    message: "found a chat template that is neither a text nor a list with one named default",
    place,
    hint: "leave it out: then the family's own template is used",
  });
}

/** As text: it is Jinja, not JSON. */
async function readTemplateFile(path: string): Promise<string> {
  return withFile(path, async (file) => {
    if (file.bytes > MAX_TEMPLATE_BYTES) {
      throw new Diagnostic({
        code: "chat-template",
        message: `found ${file.bytes} bytes, expected at most ${MAX_TEMPLATE_BYTES}`,
        place: path,
        hint: "leave it out: then the family's own template is used",
      });
    }
    const bytes = new Uint8Array(file.bytes);
    await readFully(file, bytes, 0);
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } catch {
      throw new Diagnostic({ code: "chat-template", message: "found bytes that are not UTF-8", place: path, hint: "fetch the file again" });
    }
  });
}

export interface TemplateContext {
  readonly variables: Readonly<Record<string, string>>;
  readonly specials: readonly string[];
  /** The vocabulary has the tokens of the Thinking form. */
  readonly thinks: boolean;
  readonly warn: (warning: Diagnostic) => void;
}

export async function detectChatForm(
  source: string | undefined,
  { variables, specials, thinks, warn }: TemplateContext,
): Promise<ChatForm> {
  if (source === undefined) return { format: 1, form: thinks ? "ernie-thinking" : "ernie-text" };
  const own: ChatForm = { format: 1, form: "jinja", source, variables, specials, ...(thinks ? { thinking: true } : {}) };
  const contexts = PROBES.map(({ messages, addGenerationPrompt }) => ({
    ...variables,
    messages,
    add_generation_prompt: addGenerationPrompt,
  }));
  const answer = await runProbe({ template: source, contexts });
  if ("error" in answer) {
    warn(
      new Diagnostic({
        code: "chat-template",
        message: `found a chat template that fails: ${answer.error}`,
        place: "chat_template",
        hint: "generate() works without it, chat() will not",
      }),
    );
    return own;
  }
  const match = OWN.find(([, render]) =>
    PROBES.every(({ messages, ...options }, i) => joinSegments(render(messages, options)) === answer.texts[i]),
  );
  return match ? { format: 1, form: match[0] } : own;
}

function runProbe(input: JinjaInput): Promise<JinjaOutput> {
  const worker = WORKERS.find((path) => existsSync(path));
  if (worker === undefined) throw bug("the program that renders chat templates is not built", WORKERS[0]);
  return runJinja(worker, input);
}

function joinSegments(segments: readonly Segment[]): string {
  return segments.map(segmentText).join("");
}
