/** Which journal a verb reads that shows a sweep: the one named, else the one that `tune` writes by itself on this machine, else the only one here. */

import { existsSync, readdirSync } from "node:fs";
import { Diagnostic } from "../diagnostics.js";
import { resolveArch } from "../toolchain/arch.js";
import { describeMachine, deviceClass } from "../tune/device.js";

export interface JournalFlags {
  readonly journal?: string;
}

/** Help for the argument, the same wherever it stands. */
export const JOURNAL_HELP = "journal of a sweep; one that is still running will do (default: what `tune` wrote here)";

export function journalPath(argument: string | undefined, { journal }: JournalFlags): string {
  const named = argument ?? journal;
  if (named !== undefined) return named;
  const arch = resolveArch("native");
  const own = `tune-${deviceClass(arch, describeMachine(arch).threads)}.jsonl`;
  if (existsSync(own)) return own;
  const found = readdirSync(".").filter((name) => /^tune-.*\.jsonl$/.test(name));
  if (found.length === 1) return found[0] as string;
  throw new Diagnostic({
    code: "tune-no-journal",
    message: found.length === 0 ? `found no ${own} in this folder` : `found ${found.sort().join(", ")}, expected one`,
    place: "--journal",
    hint: "name the journal",
  });
}
