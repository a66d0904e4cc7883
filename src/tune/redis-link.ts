/** A connection that outlives its server: it says when the server goes and when it comes back, and gives up after a while. */

import type { Redis } from "ioredis";
import { Diagnostic } from "../diagnostics.js";

export interface LinkOptions {
  readonly url: string;
  /** Seconds without a server until there is none. */
  readonly patience: number;
  readonly onNote: (text: string) => void;
}

export class RedisLink {
  readonly client: Redis;
  #goneSince: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;
  readonly #lost: Promise<never>;
  #giveUp: (error: Diagnostic) => void = () => undefined;

  constructor(
    make: new (url: string, options: object) => Redis,
    private readonly options: LinkOptions,
  ) {
    this.#lost = new Promise((_, reject) => {
      this.#giveUp = reject;
    });
    this.#lost.catch(() => undefined);
    // Commands wait for the server, however long it takes to come back. What BullMQ duplicates has this strategy too, so all end with the link.
    this.client = new make(options.url, {
      maxRetriesPerRequest: null,
      retryStrategy: (times: number) => (this.#closed ? null : Math.min(50 * times, 1000)),
    });
    this.client.on("error", (error: Error) => this.#gone(error.message));
    this.client.on("close", () => this.#gone("the connection was closed"));
    this.client.on("ready", () => this.#back());
  }

  /** Rejects once the server is given up. */
  get lost(): Promise<never> {
    return this.#lost;
  }

  #gone(reason: string): void {
    if (this.#goneSince !== undefined || this.#closed) return;
    this.#goneSince = Date.now();
    this.options.onNote(`redis is gone (${reason}): waiting up to ${this.options.patience} s for it; what was measured is in the journal`);
    this.#timer = setTimeout(() => {
      this.#closed = true;
      this.#giveUp(
        new Diagnostic({
          code: "queue-gone",
          kind: "environment",
          message: `found no Redis server for ${this.options.patience} s (${reason})`,
          place: "--queue",
          hint: "nothing that was reported is lost: start the server, then run again with --resume",
        }),
      );
    }, this.options.patience * 1000);
  }

  #back(): void {
    if (this.#goneSince === undefined) return;
    const seconds = (Date.now() - this.#goneSince) / 1000;
    this.#goneSince = undefined;
    clearTimeout(this.#timer);
    if (seconds > 1) this.options.onNote(`redis is back after ${seconds.toFixed(0)} s`);
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.client.disconnect();
  }
}

/** Waits, but not for ever: what closes a connection may wait for a server that is not there. */
export async function settledWithin(ms: number, ...work: readonly Promise<unknown>[]): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([Promise.allSettled(work), late]);
  clearTimeout(timer);
}
