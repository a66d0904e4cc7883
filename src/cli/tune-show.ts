/** `ernie-compile tune show`: what a table says, in words. */

import type { Command } from "commander";
import { Diagnostic } from "../diagnostics.js";
import { readTuning } from "../kernels/tuning.js";
import { resolveArch } from "../toolchain/arch.js";
import { describeMachine, deviceClass } from "../tune/device.js";
import { findTables } from "../tune/tables.js";
import { integer } from "./numbers.js";
import { printJson, printLine } from "./terminal.js";
import { resultLines, tableJson } from "./tune-view.js";

export function registerTuneShow(tune: Command): void {
  tune
    .command("show")
    .description("print what a table of measurements says")
    .argument("[table]", "file (default: what builds for this machine use)")
    .option("--json", "print one JSON object")
    .option("--arch <arch>", "level, where no file is named (default: native)")
    .option("--threads <n>", "threads, where no file is named (default: all)", integer(1, 1024))
    .addHelpText("after", "\nExample:\n  ernie-compile tune show")
    .action((path: string | undefined, { json, arch: level, threads }: { json?: boolean; arch?: string; threads?: number }) => {
      const table = path === undefined ? ownTable(level, threads) : readTuning(path);
      if (json) printJson(tableJson(table));
      else for (const line of [table.device, ...resultLines(table)]) printLine(line);
    });
}

function ownTable(level = "native", threads?: number) {
  const arch = resolveArch(level);
  const device = deviceClass(arch, describeMachine(arch, threads).threads);
  const found = findTables(device);
  if (found) return found.table;
  throw new Diagnostic({
    code: "tuning-none",
    message: `found no table for ${device}`,
    place: "[table]",
    hint: "`ernie-compile tune <model>` makes one",
  });
}
