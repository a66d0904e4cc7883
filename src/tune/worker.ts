/** A worker: takes jobs of its own class of device and build from the queue, one at a time, and measures them. */

import type { Backend } from "./backend.js";
import { checkUrl, type Job, loadQueueLibraries, parseJob, queueName } from "./queue-jobs.js";
import { RedisLink, settledWithin } from "./redis-link.js";

export interface WorkerOptions {
  readonly url: string;
  readonly device: string;
  readonly build: string;
  readonly backend: Backend;
  readonly onNote: (text: string) => void;
  readonly onJob?: (job: Job, ms: number) => void;
  readonly signal?: AbortSignal;
  readonly patience?: number;
  /** Until a job whose worker says nothing any more is another's. */
  readonly lostAfterMs?: number;
}

const CLOSE_MS = 2000;

/** Works until the signal, or until there has been no server for too long. */
export async function work(options: WorkerOptions): Promise<void> {
  checkUrl(options.url);
  const { device, build, backend, onNote, signal, lostAfterMs = 20_000 } = options;
  const { Worker, UnrecoverableError, WaitingError, Redis } = await loadQueueLibraries();
  const link = new RedisLink(Redis, { patience: 300, ...options });
  // Set once this machine can measure no more; the job is then another worker's.
  let fail: (error: unknown) => void = () => undefined;
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  failed.catch(() => undefined);
  const worker = new Worker(
    queueName(device, build),
    async (taken, token) => {
      const job = parseJob(taken.data, device, build);
      if (typeof job === "string") {
        onNote(`refused a job that holds ${job}`);
        throw new UnrecoverableError(`the worker refused it: it holds ${job}`);
      }
      const start = performance.now();
      try {
        const result = await measure(backend, job);
        options.onJob?.(job, performance.now() - start);
        return result;
      } catch (error) {
        fail(error);
        await taken.moveToWait(token);
        throw new WaitingError();
      }
    },
    {
      connection: link.client,
      concurrency: 1,
      lockDuration: lostAfterMs,
      stalledInterval: Math.ceil(lostAfterMs / 4),
      // Machines of a cluster come and go; it is not the job's fault.
      maxStalledCount: 1000,
      drainDelay: 1,
    },
  );
  // The link tells of the connection.
  worker.on("error", () => undefined);
  const stopped = new Promise<void>((resolve) => {
    if (signal?.aborted) resolve();
    signal?.addEventListener("abort", () => resolve(), { once: true });
  });
  try {
    await Promise.race([stopped, link.lost, failed]);
    // What it has begun it ends.
    await worker.close();
  } finally {
    await settledWithin(CLOSE_MS, worker.close(true), worker.disconnect());
    link.close();
    await backend.close();
  }
}

function measure(backend: Backend, { kind, task, variants, incumbent, seed }: Job) {
  const [first] = variants;
  if (kind === "final" || !first) return backend.final({ task, variants, seed });
  return backend.trial({ task, variant: first, incumbent: () => incumbent, seed });
}
