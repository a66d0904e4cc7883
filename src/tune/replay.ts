/** A recording as the thing that measures: a journal's own trials and nothing else, the same every time. For tests, and to try strategies on what a machine once said. */

import { Diagnostic } from "../diagnostics.js";
import type { Backend, FinalRequest, TrialRequest } from "./backend.js";
import { readJournal } from "./journal.js";
import type { Finalist, Measured, SweepRecord, TrialRecord } from "./records.js";
import { variantKey } from "./task.js";

export class ReplayBackend implements Backend {
  readonly #trials: ReadonlyMap<string, TrialRecord>;

  constructor(
    readonly sweep: SweepRecord,
    trials: readonly TrialRecord[],
    /** As if a device were busy for so long. */
    private readonly delayMs = 0,
  ) {
    this.#trials = new Map(trials.map((record) => [`${record.task} | ${variantKey(record.variant)}`, record]));
  }

  static async open(path: string, delayMs = 0): Promise<ReplayBackend> {
    const { records } = await readJournal(path);
    const sweep = records[0];
    if (sweep?.kind !== "sweep")
      throw new Diagnostic({
        code: "journal-unreadable",
        message: "found a journal with nothing in it, expected a recorded sweep",
        place: path,
        hint: "name a journal that `ernie-compile tune` wrote",
      });
    return new ReplayBackend(
      sweep,
      records.filter((record) => record.kind === "trial"),
      delayMs,
    );
  }

  async trial({ task, variant }: TrialRequest): Promise<Measured> {
    await this.#wait();
    const record = this.#trials.get(`${task.key} | ${variantKey(variant)}`);
    if (!record) return { status: "error", reason: "the recording has no such trial" };
    const { kind: _kind, task: _task, variant: _variant, elapsed: _elapsed, at: _at, ...measured } = record;
    return measured;
  }

  async final({ task, variants }: FinalRequest): Promise<readonly Finalist[]> {
    await this.#wait();
    const records = variants.map((variant) => this.#trials.get(`${task.key} | ${variantKey(variant)}`));
    const standard = records[0]?.seconds ?? Number.NaN;
    return records.flatMap((record, i) => {
      if (record?.status !== "ok" || record.seconds === undefined) return [];
      const { seconds, low = seconds, high = seconds } = record;
      const ratio = seconds / standard;
      return [{ variant: variants[i] as Finalist["variant"], seconds, low, high, ratio, ratioLow: ratio, ratioHigh: ratio }];
    });
  }

  async close(): Promise<void> {}

  async #wait(): Promise<void> {
    if (this.delayMs > 0) await new Promise((resolve) => setTimeout(resolve, this.delayMs));
  }
}
