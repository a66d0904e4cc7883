/**
 * Workers behind a queue as the thing that measures: BullMQ on Redis or Valkey. The journal is the memory of a sweep, the server is none: a job that
 * it has lost is added again, and one whose answer was not heard is asked for.
 */

import { Diagnostic } from "../diagnostics.js";
import type { Backend, FinalRequest, TrialRequest } from "./backend.js";
import {
  checkUrl,
  type JobData,
  jobId,
  loadQueueLibraries,
  parseFinalists,
  parseMeasured,
  type QueueLibraries,
  queueName,
} from "./queue-jobs.js";
import type { Finalist, Measured } from "./records.js";
import { RedisLink, settledWithin } from "./redis-link.js";
import { variantKey } from "./task.js";

export interface QueueOptions {
  readonly url: string;
  readonly device: string;
  readonly build: string;
  readonly onNote: (text: string) => void;
  /** Seconds that the server may be gone. */
  readonly patience?: number;
  /** Between two looks at jobs of which nothing was heard. */
  readonly pollMs?: number;
}

interface Waiting {
  readonly data: JobData;
  readonly take: (value: unknown) => boolean;
  readonly fail: (error: unknown) => void;
  /** Answers that were none. */
  refused: number;
}

/** A worker that answers nonsense, or refuses what this build asks, is not one of this build; three times is no accident. */
const CLOSE_MS = 2000;
const MAX_REFUSED = 3;
const KEPT = { age: 86_400, count: 100_000 } as const;

export async function openQueue(options: QueueOptions): Promise<Backend> {
  checkUrl(options.url);
  return new QueueBackend(options, await loadQueueLibraries());
}

class QueueBackend implements Backend {
  readonly #link: RedisLink;
  readonly #queue: InstanceType<QueueLibraries["Queue"]>;
  readonly #events: InstanceType<QueueLibraries["QueueEvents"]>;
  readonly #waiting = new Map<string, Waiting>();
  #timer: NodeJS.Timeout | undefined;
  #lost: unknown;

  constructor(
    private readonly options: QueueOptions,
    { Queue, QueueEvents, Redis }: QueueLibraries,
  ) {
    this.#link = new RedisLink(Redis, { patience: 300, ...options });
    const connection = this.#link.client;
    const name = queueName(options.device, options.build);
    this.#queue = new Queue(name, { connection });
    this.#events = new QueueEvents(name, { connection });
    // The link tells of the connection; here errors only must not go unheard.
    this.#queue.on("error", () => undefined);
    this.#events.on("error", () => undefined);
    this.#events.on("completed", ({ jobId: id, returnvalue }) => this.#answer(id, returnvalue));
    this.#events.on("failed", ({ jobId: id, failedReason }) => void this.#refuse(id, failedReason).catch(() => undefined));
    this.#link.lost.catch((error: unknown) => {
      this.#lost = error;
      for (const [id, { fail }] of this.#waiting) {
        this.#waiting.delete(id);
        fail(error);
      }
    });
    this.#poll();
  }

  trial({ task, variant, incumbent, seed }: TrialRequest): Promise<Measured> {
    const against = incumbent();
    const best = against ? { variant: variantKey(against.variant), seconds: against.seconds } : null;
    const data = { ...this.#head(), kind: "trial" as const, task: task.key, variants: [variantKey(variant)], incumbent: best, seed };
    return this.#ask(data, (value) => parseMeasured(task, value));
  }

  final({ task, variants, seed }: FinalRequest): Promise<readonly Finalist[]> {
    const data = { ...this.#head(), kind: "final" as const, task: task.key, variants: variants.map(variantKey), incumbent: null, seed };
    return this.#ask(data, (value) => parseFinalists(task, variants, value));
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#waiting.clear();
    await settledWithin(CLOSE_MS, this.#events.close(), this.#queue.close());
    this.#link.close();
  }

  #head() {
    return { device: this.options.device, build: this.options.build };
  }

  #ask<T>(data: JobData, parse: (value: unknown) => T | undefined): Promise<T> {
    if (this.#lost !== undefined) return Promise.reject(this.#lost);
    return new Promise<T>((resolve, reject) => {
      const take = (value: unknown): boolean => {
        const result = parse(value);
        if (result !== undefined) resolve(result);
        return result !== undefined;
      };
      const id = jobId(data);
      this.#waiting.set(id, { data, take, fail: reject, refused: 0 });
      this.#add(id, data);
    });
  }

  #add(id: string, data: JobData): void {
    void this.#queue.add(data.kind, data, { jobId: id, removeOnComplete: KEPT, removeOnFail: KEPT }).catch(() => undefined);
  }

  #answer(id: string, value: unknown): void {
    const waiting = this.#waiting.get(id);
    if (!waiting) return;
    if (!waiting.take(value)) {
      void this.#refuse(id, "an answer that is none").catch(() => undefined);
      return;
    }
    this.#waiting.delete(id);
    // Whoever sweeps again is to measure again.
    void this.#queue.remove(id).catch(() => undefined);
  }

  /** A worker refused the job, as it was tampered with on the way; or its answer was. Ours is put in its place. */
  async #refuse(id: string, reason: string): Promise<void> {
    const waiting = this.#waiting.get(id);
    if (!waiting) return;
    waiting.refused++;
    this.options.onNote(`a job was not measured: ${reason.slice(0, 200)}`);
    if (waiting.refused >= MAX_REFUSED) {
      this.#waiting.delete(id);
      waiting.fail(
        new Diagnostic({
          code: "queue-refused",
          kind: "environment",
          message: `workers refused a job ${waiting.refused} times: ${reason.slice(0, 200)}`,
          place: waiting.data.task,
          hint: "see what the workers say, and who else writes to this server",
        }),
      );
      return;
    }
    await this.#queue.remove(id);
    this.#add(id, waiting.data);
  }

  /** Looks at what nothing was heard of: events are lost with a connection, and jobs with a server that keeps nothing. */
  #poll(): void {
    this.#timer = setTimeout(async () => {
      for (const [id, { data }] of [...this.#waiting]) {
        if (this.#link.client.status !== "ready") break;
        try {
          const job = await this.#queue.getJob(id);
          if (!job) this.#add(id, data);
          else if (job.finishedOn !== undefined) {
            if (job.failedReason) await this.#refuse(id, job.failedReason);
            else this.#answer(id, job.returnvalue as unknown);
          }
        } catch {
          // The next look will see.
        }
      }
      if (this.#timer) this.#poll();
    }, this.options.pollMs ?? 1000);
  }
}
