/** The journal of a sweep: JSON Lines, each line checksummed over itself and the line before. */

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { Diagnostic } from "../diagnostics.js";
import { fileError } from "../weights/file.js";
import type { JournalRecord } from "./records.js";

export interface Journal {
  readonly records: readonly JournalRecord[];
  /** Whether the last line was cut and left out. */
  readonly dropped: boolean;
}

export function lineSum(previous: string, text: string): string {
  return createHash("sha256")
    .update(previous + text)
    .digest("hex")
    .slice(0, 16);
}

export async function readJournal(path: string): Promise<Journal> {
  const text = await readFile(path, "utf8").catch((error: unknown) => {
    throw fileError(error, path);
  });
  const lines = text.split("\n");
  // What follows the last line break is no line: it was cut.
  const dropped = lines.pop() !== "";
  let previous = "";
  const records = lines.map((line, i) => {
    const match = /^\{"sum":"([0-9a-f]{16})","record":(\{.*\})\}$/s.exec(line);
    const sum = match && lineSum(previous, match[2] as string);
    if (!match || sum !== match[1])
      throw new Diagnostic({
        code: "journal-line",
        message: "found a line whose checksum is not of its text, expected lines as the sweep wrote them",
        place: `${path}:${i + 1}`,
        hint: "the journal was edited or damaged: restore it, or begin a new one",
      });
    previous = sum as string;
    return JSON.parse(match[2] as string) as JournalRecord;
  });
  return { records, dropped };
}
