/** `ernie-compile cache ls|prune`: the content-addressed store of compiled objects. */

import type { Command } from "commander";
import { Cache } from "../toolchain/cache.js";
import { decimal } from "./numbers.js";
import { formatBytes, printJson, printLine } from "./terminal.js";

interface PruneFlags {
  olderThan?: number;
  maxMb?: number;
  all?: boolean;
  json?: boolean;
}

export function registerCache(program: Command): void {
  const command = program
    .command("cache")
    .description("the cache of compiled kernels and runtime objects")
    .addHelpText("after", "\nExamples:\n  ernie-compile cache ls\n  ernie-compile cache prune --max-mb 500");
  command
    .command("ls")
    .description("list what is cached, most recently used first")
    .option("--json", "print one JSON object")
    .addHelpText("after", "\nExample:\n  ernie-compile cache ls --json")
    .action(async ({ json }: { json?: boolean }) => {
      const cache = new Cache();
      const entries = await cache.list();
      if (json) return printJson({ root: cache.root, entries });
      for (const entry of entries)
        printLine(
          `${entry.key.slice(0, 12)}  ${entry.kind.padEnd(8)} ${formatBytes(entry.bytes).padStart(8)}  ${entry.lastUsed.toISOString().slice(0, 16)}  ${entry.label}`,
        );
      printLine(`${entries.length} entries, ${formatBytes(entries.reduce((sum, entry) => sum + entry.bytes, 0))} in ${cache.root}`);
    });
  command
    .command("prune")
    .description("remove what was not used for a while, or what is over a size")
    .option("--older-than <days>", "remove entries not used for so many days", decimal(0, 36_500))
    .option("--max-mb <n>", "then the longest unused, until the rest fits", decimal(0, 1e9))
    .option("--all", "remove everything")
    .option("--json", "print one JSON object")
    .addHelpText("after", "\nWithout options: entries not used for 30 days.\nExample:\n  ernie-compile cache prune --max-mb 500")
    .action(async ({ olderThan, maxMb, all, json }: PruneFlags) => {
      const nothingSaid = olderThan === undefined && maxMb === undefined && !all;
      const days = nothingSaid ? 30 : olderThan;
      const result = await new Cache().prune({
        ...(days === undefined ? {} : { olderThanDays: days }),
        ...(maxMb === undefined ? {} : { maxBytes: maxMb * 1e6 }),
        ...(all ? { all } : {}),
      });
      if (json) printJson(result);
      else printLine(`removed ${result.removed} entries, ${formatBytes(result.bytes)}`);
    });
}
