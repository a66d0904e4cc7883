/** `ernie-compile tune export`: a sweep in a format that other tools read. */

import { join } from "node:path";
import type { Command } from "commander";
import { Diagnostic } from "../diagnostics.js";
import { exportNames, exportText, type FormatName } from "../tune/export.js";
import { readSweep, type Sweep, type SweptTask } from "../tune/sweep.js";
import { writeWhole } from "../tune/write-file.js";
import { makeFolder } from "../weights/file.js";
import { oneOf } from "./numbers.js";
import { note, printLine } from "./terminal.js";
import { JOURNAL_HELP, type JournalFlags, journalPath } from "./tune-journal.js";

interface ExportOptions extends JournalFlags {
  readonly format: FormatName;
  readonly task?: string;
  readonly out?: string;
}

export function registerExport(tune: Command): void {
  tune
    .command("export")
    .description(
      "write a sweep for other tools, a file a task: T4, which `tune simulate` reads as well, or what Kernel Tuner's dashboard draws",
    )
    .argument("[journal]", JOURNAL_HELP)
    .option("--journal <file>", "the same")
    .option("--format <format>", "t4 or kernel-tuner", oneOf("t4", "kernel-tuner"), "t4" as const)
    .option("--task <text>", "only tasks whose key holds this text")
    .option("-o, --out <path>", "file for one task, .json or .json.gz; folder for several; without it one task is printed")
    .addHelpText("after", "\nExample:\n  ernie-compile tune export tune.jsonl --format t4 -o t4/")
    .action(async (named: string | undefined, { task, out, format, ...flags }: ExportOptions) => {
      const path = journalPath(named, flags);
      const { sweep, dropped } = await readSweep(path);
      if (dropped) note(`${path}: the last line is cut and left out`);
      const chosen = choose(sweep, format, task, path);
      if (out === undefined) return printLine(exportText(format, single(chosen), sweep));
      if (chosen.size === 1 && /\.json(\.gz)?$/.test(out)) {
        await writeWhole(out, exportText(format, single(chosen), sweep));
        return note(`wrote ${out}`);
      }
      if (/\.json(\.gz)?$/.test(out)) throw several(chosen);
      await makeFolder(out);
      for (const [name, swept] of chosen) await writeWhole(join(out, name), exportText(format, swept, sweep));
      note(`wrote ${chosen.size} ${chosen.size === 1 ? "file" : "files"} to ${out}`);
    });
}

function choose(sweep: Sweep, format: FormatName, text: string | undefined, journal: string): Map<string, SweptTask> {
  const all = exportNames(sweep, format);
  const chosen = new Map([...all].filter(([, { task }]) => text === undefined || task.task.includes(text)));
  if (chosen.size > 0) return chosen;
  throw new Diagnostic({
    code: "tune-no-trials",
    message: all.size === 0 ? "found no trial, expected at least one" : `found no task with ${JSON.stringify(text)} in its key`,
    place: all.size === 0 ? journal : "--task",
    hint: all.size === 0 ? "run the sweep with --resume until it has some" : `its tasks are ${keysOf(all)}`,
  });
}

function single(chosen: ReadonlyMap<string, SweptTask>): SweptTask {
  const [first, ...others] = [...chosen.values()];
  if (!first || others.length > 0) throw several(chosen);
  return first;
}

function several(chosen: ReadonlyMap<string, SweptTask>): Diagnostic {
  return new Diagnostic({
    code: "usage",
    message: `found ${chosen.size} tasks, expected one: a file holds one space`,
    place: "--out",
    hint: `name a folder with -o, or choose with --task: ${keysOf(chosen)}`,
  });
}

function keysOf(chosen: ReadonlyMap<string, SweptTask>): string {
  const keys = [...chosen.values()].map(({ task }) => task.task);
  return keys.length > 8 ? `${keys.slice(0, 8).join(", ")} and ${keys.length - 8} more` : keys.join(", ");
}
