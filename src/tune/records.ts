/** What a sweep writes down, one record a line of the journal (journal.ts). Tables and reports are made of these alone. */

import type { KernelParams } from "../kernels/kernel-def.js";
import type { Configuration, Value } from "./space.js";

export const JOURNAL_FORMAT = 1;

/** Begins a sweep, and each time that it is resumed. */
export interface SweepRecord {
  readonly kind: "sweep";
  readonly format: number;
  /** Of the compiler. */
  readonly version: string;
  /** Hash of kernel sources, flags and C++ compiler: measurements of other code are another journal's. */
  readonly build: string;
  /** Class of device: the name of the table. */
  readonly device: string;
  readonly machine: Machine;
  readonly seed: number;
  readonly strategy: string;
  /** By the clock, ISO 8601. */
  readonly started?: string;
}

export interface Machine {
  readonly cpu: string;
  /** Where a GPU is what is measured: its name, its driver's version, the clocks of its cores and its memory when the sweep began, if the driver says them. */
  readonly gpu?: string;
  readonly driver?: string;
  readonly gpuMegahertz?: number;
  readonly memoryMegahertz?: number;
  readonly threads: number;
  readonly arch: string;
  /** Of the last-level cache. */
  readonly cacheBytes: number;
  /** Of the operating system, where a GPU has a driver. */
  readonly system?: string;
  /** Of a core, when the sweep began. */
  readonly megahertz?: number;
}

export interface TaskRecord {
  readonly kind: "task";
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
  /** In one step of the model that it was asked for, by program. */
  readonly launches?: { readonly [program: string]: number };
  /** What the machine gives, where it was measured. */
  readonly limits?: { readonly bytesPerSecond: number; readonly operationsPerSecond: number };
}

/**
 * `error`: the machine could not measure it, e.g. for want of memory. `spills`: it compiled, but keeps variables in a GPU's memory. All but `ok` can never
 * be chosen.
 */
export type TrialStatus = "ok" | "wrong" | "compile" | "spills" | "crash" | "hang" | "error";
export const TRIAL_STATUSES: readonly TrialStatus[] = ["ok", "wrong", "compile", "spills", "crash", "hang", "error"];

/** What came of one variant. Seconds are of one launch. */
export interface Measured {
  readonly status: TrialStatus;
  readonly reason?: string;
  /** Median; where it ran in turns with the incumbent, the incumbent's time times the median of the ratios, so that a drifting clock cancels. */
  readonly seconds?: number;
  readonly low?: number;
  readonly high?: number;
  readonly samples?: number;
  readonly incumbent?: Configuration;
  /** To the incumbent, in turns with it. */
  readonly ratio?: number;
  /** Why it was not timed longer. */
  readonly stopped?: "loses" | "settled" | "limit";
  /** What it took to compile the variant, and to check its results. */
  readonly compileSeconds?: number;
  readonly checkSeconds?: number;
  /** Seconds of each launch, where they are kept. */
  readonly runs?: readonly number[];
  /** The incumbent's time now over when it was recorded, where they differ too much to be noise. */
  readonly drift?: number;
}

export interface TrialRecord extends Measured {
  readonly kind: "trial";
  readonly task: string;
  readonly variant: Configuration;
  /** Seconds of sweeping until then, over all resumptions. */
  readonly elapsed: number;
  /** Milliseconds since 1970. */
  readonly at?: number;
}

export interface Finalist {
  readonly variant: Configuration;
  readonly seconds: number;
  readonly low: number;
  readonly high: number;
  /** To the default, all finalists in turns with it; with its 99.9 % interval. */
  readonly ratio: number;
  readonly ratioLow: number;
  readonly ratioHigh: number;
}

/** The best of a task against the default, in one fresh run. The default is one of `variants`. */
export interface FinalRecord {
  readonly kind: "final";
  readonly task: string;
  readonly variants: readonly Finalist[];
  readonly elapsed: number;
}

export type JournalRecord = SweepRecord | TaskRecord | TrialRecord | FinalRecord;
