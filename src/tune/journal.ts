/**
 * The journal of a sweep: append-only JSON Lines, `{"sum":"…","record":{…}}`. A sum covers the record's text and the sum before it, so a line that
 * was edited, moved or taken out is found. A line counts once it is on the disk; one that a kill cut short is dropped, and said.
 *
 * One process at a time: a socket name that the kernel gives to one process and takes back when it ends, however it ends. Another machine on a
 * shared file system has other names; it is found by the file having grown between two of our own lines.
 */

import { createHash } from "node:crypto";
import { type FileHandle, open, readFile, stat } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { dirname, resolve } from "node:path";
import { Diagnostic } from "../diagnostics.js";
import { fileError, makeFolder } from "../weights/file.js";
import type { JournalRecord } from "./records.js";

export interface ReadJournal {
  readonly records: readonly JournalRecord[];
  /** Bytes of whole lines, and the last of their sums. */
  readonly bytes: number;
  readonly sum: string;
  /** Whether the last line was cut short. */
  readonly dropped: boolean;
}

const EMPTY: ReadJournal = { records: [], bytes: 0, sum: "", dropped: false };
const LINE = /^\{"sum":"([0-9a-f]{16})","record":(\{.*\})\}$/s;
const KINDS = new Set<string>(["sweep", "task", "trial", "final"] satisfies readonly JournalRecord["kind"][]);
const MAX_BYTES = 2 ** 29 - 2 ** 20;

/** Of a line: its record's text and the sum before. */
export function lineSum(previous: string, text: string): string {
  return createHash("sha256").update(previous).update(text).digest("hex").slice(0, 16);
}

/** Reads and checks all of it; an absent file is an empty journal. */
export async function readJournal(path: string): Promise<ReadJournal> {
  let data: Buffer;
  try {
    const info = await stat(path);
    if (!info.isFile()) throw refuse("journal-unreadable", "found something that is no file, expected a journal", path);
    if (info.size > MAX_BYTES) throw refuse("journal-unreadable", `found ${info.size} bytes, expected at most ${MAX_BYTES}`, path);
    data = await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return EMPTY;
    throw fileError(error, path);
  }
  const records: JournalRecord[] = [];
  let sum = "";
  let start = 0;
  for (let line = 1; start < data.length; line++) {
    const end = data.indexOf(0x0a, start);
    // What is written last ends with its line break, so a line without one was cut.
    if (end < 0) return { records, bytes: start, sum, dropped: true };
    const [, stated, text] = LINE.exec(data.toString("utf8", start, end)) ?? [];
    if (stated === undefined || text === undefined || lineSum(sum, text) !== stated) {
      throw refuse(
        "journal-edited",
        records.length === 0 && stated === undefined
          ? "found a line that is none of a journal's"
          : "found a line that does not match its checksum: it, or one before it, was changed",
        `${path}:${line}`,
      );
    }
    const record = JSON.parse(text) as JournalRecord;
    if (!KINDS.has(record.kind))
      throw refuse("journal-version", `found a record of kind ${JSON.stringify(record.kind)}`, `${path}:${line}`);
    records.push(record);
    sum = stated;
    start = end + 1;
  }
  return { records, bytes: start, sum, dropped: false };
}

function refuse(code: string, message: string, place: string): Diagnostic {
  return new Diagnostic({ code, message, place, hint: "begin another with --journal; what this one holds up to there is not touched" });
}

/** What a journal is written with; a test puts a disk that is full in its place. */
export type JournalFile = Pick<FileHandle, "write" | "datasync" | "truncate" | "close" | "stat">;

export class Journal {
  #pending: { readonly resolve: () => void; readonly reject: (error: unknown) => void }[] = [];
  #syncing: Promise<void> | undefined;
  #failure: unknown;

  private constructor(
    readonly path: string,
    readonly found: ReadJournal,
    private readonly file: JournalFile,
    private readonly lock: Server,
    private bytes: number,
    private sum: string,
  ) {}

  /** Takes it for this process; a cut last line is taken off the file. */
  static async open(path: string, openFile: (path: string) => Promise<JournalFile> = (name) => open(name, "a")): Promise<Journal> {
    const absolute = resolve(path);
    try {
      await makeFolder(dirname(absolute));
    } catch (error) {
      throw fileError(error, path);
    }
    const file = await openFile(absolute).catch((error: unknown) => {
      throw fileError(error, path);
    });
    let lock: Server | undefined;
    try {
      const { dev, ino } = await stat(absolute);
      lock = await takeLock(`ernie-compile-journal-${dev}-${ino}`, path);
      const found = await readJournal(absolute);
      if (found.dropped) await file.truncate(found.bytes);
      return new Journal(path, found, file, lock, found.bytes, found.sum);
    } catch (error) {
      lock?.close();
      await file.close();
      throw fileError(error, path);
    }
  }

  /**
   * Resolves once the record is on the disk. Lines are written in the order of the calls; while the disk is busy with one, those that come are
   * written and made safe together, so a sweep waits for a disk only at its end.
   */
  append(record: JournalRecord): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const text = JSON.stringify(record);
    this.sum = lineSum(this.sum, text);
    this.#lines.push(`{"sum":"${this.sum}","record":${text}}\n`);
    const done = new Promise<void>((resolve, reject) => this.#pending.push({ resolve, reject }));
    this.#syncing ??= this.#sync();
    return done;
  }

  readonly #lines: string[] = [];

  async #sync(): Promise<void> {
    // Let those that are appended in one go be one write.
    await Promise.resolve();
    while (this.#pending.length > 0) {
      const waiting = this.#pending;
      const data = Buffer.from(this.#lines.splice(0).join(""));
      this.#pending = [];
      try {
        await this.#write(data);
        for (const { resolve } of waiting) resolve();
      } catch (error) {
        this.#failure = error;
        for (const { reject } of [...waiting, ...this.#pending.splice(0)]) reject(error);
      }
    }
    this.#syncing = undefined;
  }

  async #write(data: Buffer): Promise<void> {
    const { size } = await this.file.stat();
    if (size !== this.bytes)
      throw refuse("journal-locked", `found ${size} bytes, expected the ${this.bytes} of this sweep: another one writes to it`, this.path);
    try {
      for (let at = 0; at < data.length; ) at += (await this.file.write(data, at, data.length - at)).bytesWritten;
      await this.file.datasync();
    } catch (error) {
      // Half a line would be dropped when it is read; better that it is not there.
      await this.file.truncate(this.bytes).catch(() => undefined);
      throw fileError(error, this.path);
    }
    this.bytes += data.length;
  }

  /** Waits for what was appended; whoever waits for that is told of a failure there. */
  async close(): Promise<void> {
    await this.#syncing;
    await this.file.close();
    this.lock.close();
  }
}

/** A name in the kernel's abstract space, which no file system keeps: no lock outlives its process. */
async function takeLock(name: string, path: string): Promise<Server> {
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      reject(
        error.code === "EADDRINUSE"
          ? new Diagnostic({
              code: "journal-locked",
              kind: "environment",
              message: "another sweep is writing to this journal",
              place: path,
              hint: "wait for it, or give this one a --journal of its own",
            })
          : error,
      );
    });
    server.listen({ path: `\0${name}` }, resolve);
  });
  server.unref();
  return server;
}
