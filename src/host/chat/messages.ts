/**
 * Chat messages, the segments that a prompt is made of, and the checks that every template shares.
 * Special tokens match only inside `template` segments; whatever a user wrote lies in `user` segments (design: safety of what is generated).
 */

import { Diagnostic } from "../../diagnostics.js";

export type Role = "system" | "user" | "assistant" | "tool";

export interface ToolCall {
  readonly name: string;
  /** Arguments as the model wrote them, parsed from JSON. */
  readonly arguments: unknown;
}

export interface ChatMessage {
  readonly role: Role;
  readonly content: string;
  /** Calls that an assistant turn made, for templates with a tool grammar. */
  readonly toolCalls?: readonly ToolCall[];
}

export type Segment =
  | { readonly kind: "template" | "user"; readonly text: string }
  /** Ids that the model itself wrote: encoding their text again might give others. */
  | { readonly kind: "tokens"; readonly ids: Int32Array };

export interface TemplateOptions {
  /** Ends the prompt with the opening of an assistant turn. Default true. */
  readonly addGenerationPrompt?: boolean;
  /** The ids of an answer that this engine gave, so that its keys and values are found in the cache again. */
  readonly answerIds?: ((content: string) => Int32Array | undefined) | undefined;
}

/** The text of a segment; ids have none. */
export function segmentText(segment: Segment): string {
  return segment.kind === "tokens" ? "" : segment.text;
}

/** A chat template: messages to segments. */
export type ChatTemplate = (messages: readonly ChatMessage[], options?: TemplateOptions) => readonly Segment[];

/** Refuses what no template can render: not a list, empty, a role outside `roles`, content that is not text. */
export function checkMessages(messages: readonly ChatMessage[], roles: readonly Role[]): void {
  if (!Array.isArray(messages)) throw invalid("messages", `expected an array of messages, found ${describe(messages)}`);
  if (messages.length === 0) throw invalid("messages", "expected at least one message, found none");
  messages.forEach((message, i) => {
    if (typeof message !== "object" || message === null)
      throw invalid(`messages[${i}]`, `expected { role, content }, found ${describe(message)}`);
    if (!roles.includes(message.role)) {
      throw invalid(`messages[${i}].role`, `expected one of ${roles.join(", ")}, found ${describe(message.role)}`);
    }
    if (typeof message.content !== "string") {
      throw invalid(
        `messages[${i}].content`,
        `expected a string, found ${describe(message.content)}`,
        "text models take text alone: join the parts into one string",
      );
    }
    checkToolCalls(message.toolCalls, `messages[${i}].toolCalls`);
  });
}

function checkToolCalls(calls: unknown, place: string): void {
  if (calls === undefined) return;
  if (!Array.isArray(calls)) throw invalid(place, `expected an array of calls, found ${describe(calls)}`);
  calls.forEach((call: unknown, i) => {
    const named = typeof call === "object" && call !== null && "name" in call && typeof call.name === "string";
    if (!named || !isJson(call)) throw invalid(`${place}[${i}]`, `expected { name, arguments } that JSON can say, found ${describe(call)}`);
  });
}

function isJson(value: unknown): boolean {
  try {
    return JSON.stringify(value) !== undefined;
  } catch {
    return false;
  }
}

export function invalid(place: string, message: string, hint = "messages are objects { role, content }"): Diagnostic {
  return new Diagnostic({ code: "chat-message", message, place, hint });
}

function describe(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "an array";
  return typeof value === "string" ? JSON.stringify(value.slice(0, 40)) : typeof value;
}

/** Collects segments; neighbours of one kind become one. */
export class SegmentList {
  readonly #segments: Segment[] = [];

  template(text: string): this {
    return this.#push("template", text);
  }

  user(text: string): this {
    return this.#push("user", text);
  }

  tokens(ids: Int32Array): this {
    this.#segments.push({ kind: "tokens", ids });
    return this;
  }

  finish(): readonly Segment[] {
    return this.#segments;
  }

  #push(kind: "template" | "user", text: string): this {
    if (text === "") return this;
    const last = this.#segments.at(-1);
    if (last && last.kind !== "tokens" && last.kind === kind) this.#segments[this.#segments.length - 1] = { kind, text: last.text + text };
    else this.#segments.push({ kind, text });
    return this;
  }
}
