/** `ernie-compile tune show`: what a table or a journal says, in words. */

import type { Command } from "commander";
import { Diagnostic } from "../diagnostics.js";
import { readTuning } from "../kernels/tuning.js";
import { isCudaArch, resolveArch } from "../toolchain/arch.js";
import { describeMachine, deviceClass } from "../tune/device.js";
import { reportData } from "../tune/report-data.js";
import { readSweep } from "../tune/sweep.js";
import { type FoundTable, findCudaTables, findTables } from "../tune/tables.js";
import { integer } from "./numbers.js";
import { printJson, printLine } from "./terminal.js";
import { isJournal, journalLines } from "./tune-journal-view.js";
import { resultLines, tableJson } from "./tune-view.js";

export function registerTuneShow(tune: Command): void {
  tune
    .command("show")
    .description("print what a table of measurements says, or a journal so far")
    .argument("[file]", "table or journal (default: the table that builds for this machine use)")
    .option("--json", "print one JSON object")
    .option("--arch <arch>", "level, where no file is named; one of a GPU shows what there is for it (default: native)")
    .option("--threads <n>", "threads, where no file is named (default: all)", integer(1, 1024))
    .addHelpText("after", "\nExamples:\n  ernie-compile tune show\n  ernie-compile tune show sweep.jsonl")
    .action(async (path: string | undefined, { json, arch: level, threads }: { json?: boolean; arch?: string; threads?: number }) => {
      if (path !== undefined && (await isJournal(path))) {
        const { sweep, dropped } = await readSweep(path);
        const data = reportData(sweep, dropped);
        if (json) return printJson(data);
        for (const line of journalLines(data)) printLine(line);
        return;
      }
      const table = path === undefined ? ownTable(level, threads) : readTuning(path);
      if (json) printJson(tableJson(table));
      else for (const line of [table.device, ...resultLines(table)]) printLine(line);
    });
}

function ownTable(level = "native", threads?: number) {
  if (isCudaArch(level)) return found(level, findCudaTables(level));
  const arch = resolveArch(level);
  const device = deviceClass(arch, describeMachine(arch, threads).threads);
  return found(device, findTables(device));
}

function found(device: string, tables: FoundTable | undefined) {
  if (tables) return tables.table;
  throw new Diagnostic({
    code: "tuning-none",
    message: `found no table for ${device}`,
    place: "[file]",
    hint: "`ernie-compile tune <model>` makes one",
  });
}
