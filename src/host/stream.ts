/** From the addon's events to an async iterable: a reader that stops early cancels, a slow reader stops its own sequence alone. */

import { Diagnostic } from "../diagnostics.js";
import type { Finish, Piece } from "./api.js";
import { type ThinkingPiece, ThinkingReader } from "./chat/ernie-thinking.js";
import type { NativeEvent, NativeFinish, NativeRequest } from "./native.js";

export interface StreamOptions {
  readonly signal?: AbortSignal | undefined;
  /** Splits reasoning and tool calls out of the text. */
  readonly thinking: boolean;
}

/** Runs `submit` when the reader asks for the first piece. */
export async function* stream(
  submit: (onEvent: (event: NativeEvent) => void) => NativeRequest,
  { signal, thinking }: StreamOptions,
): AsyncGenerator<Piece | Finish, void, undefined> {
  if (signal?.aborted) {
    yield cancelledBeforeStart();
    return;
  }
  const events: NativeEvent[] = [];
  let wake: (() => void) | undefined;
  const request = submit((event) => {
    events.push(event);
    wake?.();
  });
  const abort = () => request.cancel();
  signal?.addEventListener("abort", abort, { once: true });
  const reader = thinking ? new ThinkingReader() : undefined;
  let finished = false;
  try {
    while (!finished) {
      const event = events.shift();
      if (!event) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        wake = undefined;
        continue;
      }
      request.ack(event.ids.length);
      finished = event.finish !== undefined;
      const piece = toPiece(event, reader);
      yield event.finish ? { ...piece, ...toFinish(event.finish) } : piece;
    }
  } finally {
    signal?.removeEventListener("abort", abort);
    if (!finished) request.cancel();
  }
}

function toPiece(event: NativeEvent, reader: ThinkingReader | undefined): Piece {
  const piece: Piece = { text: event.text, ids: event.ids };
  if (event.logprobs) {
    piece.logprobs = event.logprobs.map(({ logprob, topIds, topLogprobs }, i) => ({
      id: event.ids[i] as number,
      logprob,
      top: topIds.map((id, j) => ({ id, logprob: topLogprobs[j] as number })),
    }));
  }
  return reader ? { ...piece, ...split(reader, event) } : piece;
}

function split(reader: ThinkingReader, event: NativeEvent): Pick<Piece, "text" | "reasoning" | "toolCalls"> {
  const parts: ThinkingPiece[] = [reader.push(event.text)];
  if (event.finish) parts.push(reader.finish());
  const toolCalls = parts.flatMap((part) => part.toolCalls);
  return {
    text: parts.map((part) => part.text).join(""),
    reasoning: parts.map((part) => part.reasoning).join(""),
    ...(toolCalls.length > 0 ? { toolCalls } : {}),
  };
}

function toFinish(finish: NativeFinish): Pick<Finish, "finishReason" | "usage" | "timings"> {
  if (finish.reason === "error") throw new Diagnostic({ code: "generation-failed", message: finish.message });
  const { promptTokens, cachedTokens, completionTokens } = finish;
  return {
    finishReason: finish.reason,
    usage: { promptTokens, cachedTokens, completionTokens },
    timings: { queue: finish.queueMs, prefill: finish.prefillMs, decode: finish.decodeMs },
  };
}

function cancelledBeforeStart(): Finish {
  return {
    text: "",
    ids: [],
    finishReason: "cancelled",
    usage: { promptTokens: 0, cachedTokens: 0, completionTokens: 0 },
    timings: { queue: 0, prefill: 0, decode: 0 },
  };
}
