/** What a journal holds, one record a line (journal.ts); the words that measuring, searching and showing share. */

import type { KernelParams } from "../kernels/kernel-def.js";
import type { Configuration, Value } from "./space.js";

/** The first line, and once more for each run that continued the journal. */
export interface SweepRecord {
  readonly kind: "sweep";
  readonly format: 1;
  readonly version: string;
  /** Hash of what is measured: kernel sources, flags, C++ compiler. */
  readonly build: string;
  /** Device class. */
  readonly device: string;
  readonly machine: { readonly cpu: string; readonly threads: number; readonly arch: string; readonly cacheBytes: number };
  readonly seed: number;
  readonly strategy: string;
  /** ISO 8601. */
  readonly started?: string;
}

/** What is tuned: comes before its trials. */
export interface TaskRecord {
  readonly kind: "task";
  /** Key. */
  readonly task: string;
  readonly op: string;
  readonly kernel: string;
  readonly problem: KernelParams;
  readonly layouts: { readonly [operand: string]: string };
  readonly rows: number;
  readonly device: string;
  readonly space: { readonly parameters: readonly { readonly name: string; readonly values: readonly Value[] }[]; readonly size: number };
  readonly default: Configuration;
  readonly cost: { readonly bytes: number; readonly operations: number };
  readonly limits?: { readonly bytesPerSecond: number; readonly operationsPerSecond: number };
  /** Launches in one step of the model, by program. */
  readonly launches?: { readonly [program: string]: number };
}

export type TrialStatus = "ok" | "wrong" | "compile" | "crash" | "hang" | "error";

export interface TrialRecord {
  readonly kind: "trial";
  readonly task: string;
  readonly variant: Configuration;
  readonly status: TrialStatus;
  /** Why it failed: from a compiler, a signal, a comparison. */
  readonly reason?: string;
  /** Median, scaled by the incumbent's drift, and its confidence interval. */
  readonly seconds?: number;
  readonly low?: number;
  readonly high?: number;
  readonly samples?: number;
  /** Of the timed runs, each; where they are kept. */
  readonly runs?: readonly number[];
  readonly incumbent?: Configuration;
  /** To the incumbent, interleaved. */
  readonly ratio?: number;
  readonly stopped?: "loses" | "settled" | "limit";
  readonly drift?: number;
  readonly compileSeconds?: number;
  readonly checkSeconds?: number;
  /** Of the sweep, when the result was there. */
  readonly elapsed: number;
  /** Milliseconds since 1970. */
  readonly at?: number;
}

/** A task's best variants timed again, interleaved with the default. The last one of a task counts. */
export interface FinalRecord {
  readonly kind: "final";
  readonly task: string;
  readonly variants: readonly {
    readonly variant: Configuration;
    readonly seconds: number;
    readonly low: number;
    readonly high: number;
    /** To the default, with its confidence interval. */
    readonly ratio: number;
    readonly ratioLow: number;
    readonly ratioHigh: number;
  }[];
  readonly elapsed: number;
}

export type JournalRecord = SweepRecord | TaskRecord | TrialRecord | FinalRecord;
