/** `ernie-compile tune merge`: the journals of shards become one table. */

import { existsSync } from "node:fs";
import type { Command } from "commander";
import { Diagnostic } from "../diagnostics.js";
import { readTuning } from "../kernels/tuning.js";
import { readJournal } from "../tune/journal.js";
import type { JournalRecord, SweepRecord } from "../tune/records.js";
import { mergeRows, rowsOfRecords, userTablePath, writeTable } from "../tune/tables.js";
import { note, printJson } from "./terminal.js";
import { resultLines, tableJson } from "./tune-view.js";

export function registerTuneMerge(tune: Command): void {
  tune
    .command("merge")
    .description("make one table of the journals of several shards")
    .argument("<journals...>", "files that `tune --journal` wrote")
    .option("-o, --out <file>", "table to write (default: the user's own, which builds read)")
    .option("--json", "print one JSON object")
    .addHelpText("after", "\nExample:\n  ernie-compile tune merge part*.jsonl")
    .action(async (paths: readonly string[], { out, json }: { out?: string; json?: boolean }) => {
      const { device, records } = await readAll(paths);
      const path = out ?? userTablePath(device);
      const rows = rowsOfRecords(records);
      const older = existsSync(path) ? readTuning(path, { strict: false }).rows : [];
      await writeTable(path, { device, rows: mergeRows(older, rows) });
      const table = { device, rows };
      if (json) printJson({ table: path, ...tableJson(table) });
      else for (const line of [...resultLines(table), path]) note(line);
    });
}

/** All of one device class and one build: times of different code cannot be compared. */
async function readAll(paths: readonly string[]): Promise<{ readonly device: string; readonly records: readonly JournalRecord[] }> {
  const records: JournalRecord[] = [];
  let first: { readonly sweep: SweepRecord; readonly path: string } | undefined;
  for (const path of paths) {
    const journal = await readJournal(path);
    if (journal.dropped) note(`${path}: the last line was cut short and is left out`);
    const sweep = journal.records[0];
    if (sweep?.kind !== "sweep")
      throw new Diagnostic({
        code: "journal-unreadable",
        message: "found a journal with nothing in it",
        place: path,
        hint: "check the path",
      });
    first ??= { sweep, path };
    if (sweep.device !== first.sweep.device || sweep.build !== first.sweep.build)
      throw new Diagnostic({
        code: sweep.device === first.sweep.device ? "journal-version" : "journal-device",
        message: `found measurements of ${sweep.device}, build ${sweep.build}; expected ${first.sweep.device}, build ${first.sweep.build}, as in ${first.path}`,
        place: path,
        hint: "merge journals of one device class and one version",
      });
    records.push(...journal.records);
  }
  return { device: (first as { sweep: SweepRecord }).sweep.device, records };
}
