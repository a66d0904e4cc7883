/** `ernie-compile tune report`: a sweep as one HTML page. */

import type { Command } from "commander";
import { renderReport } from "../tune/report.js";
import { reportData } from "../tune/report-data.js";
import { readSweep } from "../tune/sweep.js";
import { writeWhole } from "../tune/write-file.js";
import { note } from "./terminal.js";
import { JOURNAL_HELP, type JournalFlags, journalPath } from "./tune-journal.js";

export function registerReport(tune: Command): void {
  tune
    .command("report")
    .description("draw a sweep as one self-contained HTML page: trials over time, what each tunable moves, failures, roofline, gains")
    .argument("[journal]", JOURNAL_HELP)
    .option("--journal <file>", "the same")
    .option("-o, --out <file>", "the page", "report.html")
    .addHelpText("after", "\nExample:\n  ernie-compile tune report tune.jsonl -o report.html")
    .action(async (path: string | undefined, { out, ...flags }: JournalFlags & { readonly out: string }) => {
      const { sweep, dropped } = await readSweep(journalPath(path, flags));
      const data = reportData(sweep, dropped);
      await writeWhole(out, renderReport(data));
      note(`wrote ${out}: ${data.tasks.length} ${data.tasks.length === 1 ? "task" : "tasks"}, ${data.trials} trials`);
    });
}
