/** Who measures: this machine (local.ts), a recording (replay.ts) or workers behind a queue (queue.ts). A sweep (sweep.ts) knows no more of them than this. */

import type { TuningRow } from "../kernels/tuning.js";
import type { Finalist, Measured } from "./records.js";
import type { Configuration } from "./space.js";
import type { Task } from "./task.js";

/** The best variant so far, with its recorded seconds. */
export interface Incumbent {
  readonly variant: Configuration;
  readonly seconds: number;
}

export interface TrialRequest {
  readonly task: Task;
  readonly variant: Configuration;
  /** Whom it runs in turns with; asked when it is its turn. None for the first, which is the default. */
  readonly incumbent: () => Incumbent | undefined;
  readonly seed: number;
}

export interface FinalRequest {
  readonly task: Task;
  /** The default first. */
  readonly variants: readonly Configuration[];
  readonly seed: number;
}

export interface Backend {
  /** Any number may be under way at once; a backend with one device takes them in the order of the calls. Fails only where nothing can be measured at all. */
  trial(request: TrialRequest): Promise<Measured>;
  /** Times of those that are still right, the default first if it is. */
  final(request: FinalRequest): Promise<readonly Finalist[]>;
  /** What the sweep has found, for measurements of whole packages: these run the kernels that builds would choose by it. */
  useRows?(rows: () => readonly TuningRow[]): void;
  close(): Promise<void>;
}
