/**
 * What driver and workers say to each other through Redis. A job is words and numbers that name things of the worker's own build: a kernel of its table,
 * a problem of the kernel's, variants of its tunables. Whoever reads one checks all of it: the server in between may be anybody's.
 */

import { bug, Diagnostic } from "../diagnostics.js";
import { sha256 } from "../toolchain/cache.js";
import type { Incumbent } from "./backend.js";
import { type Finalist, type Measured, TRIAL_STATUSES } from "./records.js";
import type { Configuration } from "./space.js";
import { parseTask, parseVariant, type Task, variantKey } from "./task.js";

export interface JobData {
  readonly kind: "trial" | "final";
  readonly device: string;
  readonly build: string;
  readonly task: string;
  readonly variants: readonly string[];
  readonly incumbent: { readonly variant: string; readonly seconds: number } | null;
  readonly seed: number;
}

export interface Job {
  readonly kind: JobData["kind"];
  readonly task: Task;
  readonly variants: readonly Configuration[];
  readonly incumbent: Incumbent | undefined;
  readonly seed: number;
}

/** One queue for each class of device and build, so workers see only what is theirs. */
export function queueName(device: string, build: string): string {
  return `ernie-compile-tune-${device}-${build}`;
}

/** Equal for equal work: a job that is added twice is one job. */
export function jobId({ kind, task, variants, seed }: JobData): string {
  return `${kind}-${sha256(JSON.stringify([task, variants, seed])).slice(0, 32)}`;
}

/** Finals time the default and three others. */
const MAX_VARIANTS = 16;

/** The job, or why it is none. */
export function parseJob(data: unknown, device: string, build: string): Job | string {
  if (typeof data !== "object" || data === null) return "no object";
  const { kind, task: key, variants, incumbent, seed, ...rest } = data as { readonly [name: string]: unknown };
  if (kind !== "trial" && kind !== "final") return "neither a trial nor a final";
  if (rest.device !== device || rest.build !== build) return "of another device class or build";
  if (Object.keys(rest).length !== 2) return "fields that no job has";
  if (typeof seed !== "number" || !Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) return "no seed of 32 bits";
  const task = typeof key === "string" ? parseTask(key) : undefined;
  if (!task) return "a task that this build does not know";
  if (!Array.isArray(variants) || variants.length < 1 || variants.length > (kind === "trial" ? 1 : MAX_VARIANTS))
    return "no list of variants";
  const found = variants.map((text: unknown) => (typeof text === "string" ? parseVariant(task, text) : undefined));
  if (found.includes(undefined)) return "a variant that this build does not know";
  if (incumbent === null) return { kind, task, variants: found as Configuration[], incumbent: undefined, seed };
  if (typeof incumbent !== "object" || incumbent === undefined) return "no incumbent";
  const { variant, seconds } = incumbent as { readonly [name: string]: unknown };
  const best = typeof variant === "string" ? parseVariant(task, variant) : undefined;
  if (!best || !isTime(seconds)) return "an incumbent that this build does not know";
  return { kind, task, variants: found as Configuration[], incumbent: { variant: best, seconds }, seed };
}

function isTime(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value) && value > 0;
}

const NUMBERS = ["seconds", "low", "high", "samples", "ratio", "drift", "compileSeconds", "checkSeconds"] as const;

/** A worker's answer to a trial, as a record may hold it. */
export function parseMeasured(task: Task, value: unknown): Measured | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const given = value as { readonly [name: string]: unknown };
  const status = TRIAL_STATUSES.find((known) => known === given.status);
  if (!status || (status === "ok" && !isTime(given.seconds))) return undefined;
  const numbers: { [name: string]: number } = {};
  for (const name of NUMBERS) {
    const number = given[name];
    if (number === undefined) continue;
    if (!isTime(number)) return undefined;
    numbers[name] = number;
  }
  const stopped = (["loses", "settled", "limit"] as const).find((known) => known === given.stopped);
  const incumbent =
    typeof given.incumbent === "object" && given.incumbent !== null
      ? parseVariant(task, variantKey(given.incumbent as Configuration))
      : undefined;
  return {
    status,
    ...(typeof given.reason === "string" ? { reason: given.reason.slice(0, 2000) } : {}),
    ...numbers,
    ...(incumbent ? { incumbent } : {}),
    ...(stopped ? { stopped } : {}),
  };
}

/** A worker's answer to a final: of the variants that were asked for, and no others. */
export function parseFinalists(task: Task, asked: readonly Configuration[], value: unknown): readonly Finalist[] | undefined {
  if (!Array.isArray(value) || value.length > asked.length) return undefined;
  const keys = new Set(asked.map(variantKey));
  const finalists = value.map((entry: unknown) => {
    const { variant, ...times } = (typeof entry === "object" && entry !== null ? entry : {}) as { readonly [name: string]: unknown };
    const parsed = typeof variant === "object" && variant !== null ? parseVariant(task, variantKey(variant as Configuration)) : undefined;
    const { seconds, low, high, ratio, ratioLow, ratioHigh } = times;
    if (!parsed || !keys.delete(variantKey(parsed)) || ![seconds, low, high, ratio, ratioLow, ratioHigh].every(isTime)) return undefined;
    return { variant: parsed, seconds, low, high, ratio, ratioLow, ratioHigh } as Finalist;
  });
  return finalists.includes(undefined) ? undefined : (finalists as readonly Finalist[]);
}

export interface QueueLibraries
  extends Pick<typeof import("bullmq"), "Queue" | "QueueEvents" | "Worker" | "UnrecoverableError" | "WaitingError"> {
  readonly Redis: typeof import("ioredis").Redis;
}

/** The libraries behind a queue are installed by those who want one. */
export async function loadQueueLibraries(): Promise<QueueLibraries> {
  try {
    const [{ Queue, QueueEvents, Worker, UnrecoverableError, WaitingError }, { Redis }] = await Promise.all([
      import("bullmq"),
      import("ioredis"),
    ]);
    return { Queue, QueueEvents, Worker, UnrecoverableError, WaitingError, Redis };
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ERR_MODULE_NOT_FOUND") throw bug(`bullmq cannot be loaded: ${String(cause)}`);
    throw new Diagnostic({
      code: "queue-not-installed",
      kind: "environment",
      message: "found no bullmq, which tuning over a queue needs",
      place: "--queue",
      hint: "npm install bullmq ioredis, where ernie-compile is installed; without a server, --shard i/n spreads a sweep too",
      cause,
    });
  }
}

export function checkUrl(url: string): void {
  if (/^rediss?:\/\/\S+$/.test(url) && URL.canParse(url)) return;
  throw new Diagnostic({
    code: "usage",
    // It may hold a password.
    message: "found something that is no address of a Redis server",
    place: "--queue",
    hint: "such as redis://127.0.0.1:6379",
  });
}
