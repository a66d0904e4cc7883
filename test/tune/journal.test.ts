/** The journal: what is written is read back, what was changed is found, what was cut is dropped, and one process writes at a time. */

import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import { Journal, type JournalFile, readJournal } from "../../src/tune/journal.js";
import type { TrialRecord } from "../../src/tune/records.js";
import { journalText, SWEEP } from "./recording.js";

const root = mkdtempSync(join(tmpdir(), "ernie-compile-journal-test-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let path = "";
let count = 0;
beforeEach(() => {
  path = join(root, `${count++}.jsonl`);
});

const trial = (tile: number, reason = 'ended by SIGSEGV\u2028\n"}'): TrialRecord => ({
  kind: "trial",
  task: "linear/linear k=1 rows=1",
  variant: { tile_rows: tile },
  status: "crash",
  reason,
  elapsed: tile,
});

async function write(...tiles: readonly number[]): Promise<void> {
  const journal = await Journal.open(path);
  if (journal.found.records.length === 0) await journal.append(SWEEP);
  for (const tile of tiles) await journal.append(trial(tile));
  await journal.close();
}

describe("a journal", () => {
  it("gives back what was appended, over several openings, line separators in strings and all", async () => {
    await write(1, 2);
    await write(3);
    const { records, dropped } = await readJournal(path);
    expect([records, dropped]).toEqual([[SWEEP, trial(1), trial(2), trial(3)], false]);
    expect(readFileSync(path, "utf8")).toBe(journalText([SWEEP, trial(1), trial(2), trial(3)]));
  });

  it("that is not there is empty", async () => {
    expect(await readJournal(path)).toMatchObject({ records: [], dropped: false });
  });

  it("cut anywhere in its last line loses that line alone, and goes on behind the one before", async () => {
    await write(1, 2);
    const whole = readFileSync(path);
    const last = whole.lastIndexOf(0x0a, whole.length - 2) + 1;
    for (const end of [last + 1, Math.floor((last + whole.length) / 2), whole.length - 1]) {
      writeFileSync(path, whole.subarray(0, end));
      expect(await readJournal(path)).toMatchObject({ records: [SWEEP, trial(1)], dropped: true });
    }
    await write(3);
    expect((await readJournal(path)).records).toEqual([SWEEP, trial(1), trial(3)]);
  });

  it.each<[string, (text: string) => string]>([
    ["a changed number", (text) => text.replace('"elapsed":1', '"elapsed":9')],
    ["a line taken out", (text) => text.split("\n").toSpliced(1, 1).join("\n")],
    [
      "two lines exchanged",
      (text) =>
        text
          .split("\n")
          .toSpliced(1, 2, text.split("\n")[2] as string, text.split("\n")[1] as string)
          .join("\n"),
    ],
    ["a line of another journal", (text) => text + journalText([trial(4)])],
    ["a line break within a line", (text) => text.replace('"kind":"trial"', '"kind":\n"trial"')],
    ["text that is none", () => "hello\n"],
  ])("with %s is refused, and stays as it is", async (_, edit) => {
    await write(1, 2);
    const edited = edit(readFileSync(path, "utf8"));
    writeFileSync(path, edited);
    await expect(readJournal(path)).rejects.toMatchObject({ code: "journal-edited" });
    await expect(Journal.open(path)).rejects.toMatchObject({ code: "journal-edited" });
    expect(readFileSync(path, "utf8")).toBe(edited);
  });

  it("is one process's at a time", async () => {
    const first = await Journal.open(path);
    await expect(Journal.open(path)).rejects.toMatchObject({ code: "journal-locked" });
    await first.close();
    await (await Journal.open(path)).close();
  });

  it("says so when somebody whom the lock does not reach writes to it", async () => {
    const journal = await Journal.open(path);
    await journal.append(SWEEP);
    appendFileSync(path, "{}\n");
    await expect(journal.append(trial(1))).rejects.toMatchObject({ code: "journal-locked" });
    await journal.close();
  });

  it("keeps what it has when the disk is full", async () => {
    const full = async (name: string): Promise<JournalFile> => {
      const file = await open(name, "a");
      let room = journalText([SWEEP, trial(1)]).length + 30;
      const write = async (data: Uint8Array, at: number, length: number) => {
        if (room <= 0)
          throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC", errno: -28, syscall: "write" });
        const result = await file.write(data, at, Math.min(room, length));
        room -= result.bytesWritten;
        return result;
      };
      const rest = {
        datasync: () => file.datasync(),
        truncate: (size?: number) => file.truncate(size),
        close: () => file.close(),
        stat: () => file.stat(),
      };
      return { ...rest, write } as unknown as JournalFile;
    };
    const journal = await Journal.open(path, full);
    await journal.append(SWEEP);
    await journal.append(trial(1));
    await expect(journal.append(trial(2))).rejects.toMatchObject({ code: "disk-full" });
    await expect(journal.append(trial(3))).rejects.toMatchObject({ code: "disk-full" });
    await journal.close();
    expect(await readJournal(path)).toMatchObject({ records: [SWEEP, trial(1)], dropped: false });
  });

  it("takes less than a millisecond of a sweep a trial", async () => {
    const journal = await Journal.open(path);
    const start = performance.now();
    const done = Array.from({ length: 500 }, (_, i) => journal.append(trial(i)));
    const blocked = (performance.now() - start) / done.length;
    await Promise.all(done);
    const all = (performance.now() - start) / done.length;
    await journal.close();
    expect([blocked < 1, all < 1]).toEqual([true, true]);
  });
});
