/** One run of `tune`: journal, backend, sweep, table, in that order. The command line is src/cli/tune.ts; what a sweep does is sweep.ts. */

import { existsSync } from "node:fs";
import { Diagnostic } from "../diagnostics.js";
import { readTuning, type TuningTable } from "../kernels/tuning.js";
import { compilerVersion } from "../project.js";
import type { ArchLevel } from "../toolchain/arch.js";
import type { Backend } from "./backend.js";
import { Journal } from "./journal.js";
import { JOURNAL_FORMAT, type JournalRecord, type Machine, type SweepRecord, type TaskRecord } from "./records.js";
import { runSweep, type SweepEvent } from "./run-sweep.js";
import type { StrategyDef } from "./strategies/strategy.js";
import { mergeRows, rowsOfRecords, writeTable } from "./tables.js";
import type { Task } from "./task.js";

export interface TuneRun {
  readonly tasks: readonly Task[];
  readonly arch: ArchLevel;
  readonly device: string;
  readonly machine: Machine;
  /** `buildIdentity`, or a recording's. */
  readonly build: string;
  readonly backend: Backend;
  readonly strategy: StrategyDef;
  readonly seed: number;
  readonly trials: number;
  readonly seconds?: number | undefined;
  readonly parallel?: number | undefined;
  readonly limits?: TaskRecord["limits"];
  readonly journal: string;
  /** Go on with what the journal has; without it the journal must be new. */
  readonly resume: boolean;
  /** Where the table goes; rows that are there about other problems stay. */
  readonly table: string;
  readonly onEvent?: ((event: SweepEvent) => void) | undefined;
  readonly onNote?: ((text: string) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Gives the rows that this sweep found. The backend is closed whatever happens. */
export async function tune(run: TuneRun): Promise<TuningTable> {
  try {
    return await tuneOpen(run);
  } finally {
    await run.backend.close();
  }
}

async function tuneOpen(run: TuneRun): Promise<TuningTable> {
  if (run.tasks.length === 0)
    throw new Diagnostic({
      code: "tune-no-tasks",
      message: "found no kernel to tune, expected at least one",
      place: "--kernel",
      hint: "`ernie-compile tune list` shows what there is",
    });
  // Read before hours of measuring, not after.
  if (existsSync(run.table)) readTable(run.table, run.device);
  const journal = await Journal.open(run.journal);
  const records: JournalRecord[] = [...journal.found.records];
  try {
    if (journal.found.dropped) run.onNote?.(`${run.journal}: the last line was cut short and has been dropped`);
    const head = headOf(run);
    checkJournal(records, head, run);
    await journal.append(head);
    run.backend.useRows?.(() => rowsOfRecords(records));
    await runSweep({
      ...run,
      found: records.slice(),
      append: async (record) => {
        await journal.append(record);
        records.push(record);
      },
    });
  } finally {
    await journal.close();
  }
  const rows = rowsOfRecords(records);
  const older = existsSync(run.table) ? readTable(run.table, run.device).rows : [];
  await writeTable(run.table, { device: run.device, rows: mergeRows(older, rows) });
  return { device: run.device, rows };
}

function readTable(path: string, device: string): TuningTable {
  const table = readTuning(path, { strict: false });
  if (table.device === device) return table;
  throw new Diagnostic({
    code: "tuning-device",
    message: `found a table of ${JSON.stringify(table.device)}, expected ${device}`,
    place: path,
    hint: "name another file with -o",
  });
}

function headOf({ build, device, machine, seed, strategy }: TuneRun): SweepRecord {
  const started = new Date().toISOString();
  return {
    kind: "sweep",
    format: JOURNAL_FORMAT,
    version: compilerVersion(),
    build,
    device,
    machine,
    seed,
    strategy: strategy.name,
    started,
  };
}

/** Whether this run may go on with what the journal has. */
function checkJournal(records: readonly JournalRecord[], head: SweepRecord, { journal, resume }: TuneRun): void {
  if (records.length === 0) return;
  const refuse = (code: string, message: string, hint: string): Diagnostic => new Diagnostic({ code, message, place: journal, hint });
  if (!resume)
    throw refuse(
      "journal-exists",
      `found ${records.length} records, expected a new file`,
      "--resume goes on with it; --journal names another",
    );
  for (const record of records) {
    if (record.kind !== "sweep") continue;
    if (record.format !== head.format || record.version !== head.version)
      throw refuse(
        "journal-version",
        `found a journal of version ${String(record.version)}, format ${String(record.format)}; expected ${head.version}, ${head.format}`,
        "measure again with a new --journal: kernels have changed since",
      );
    if (record.device !== head.device)
      throw refuse(
        "journal-device",
        `found measurements of ${record.device}, expected ${head.device}`,
        "each device class has a journal of its own",
      );
    if (record.build !== head.build)
      throw refuse(
        "journal-version",
        "found measurements of other kernel sources, or of another compiler",
        "measure again with a new --journal",
      );
    if (record.seed !== head.seed || record.strategy !== head.strategy)
      throw refuse(
        "journal-settings",
        `found seed ${record.seed} and strategy ${record.strategy}, expected ${head.seed} and ${head.strategy}`,
        "resume with the same --seed and --strategy",
      );
  }
}
