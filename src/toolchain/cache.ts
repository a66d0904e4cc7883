/**
 * A content-addressed store of what the toolchain made: an entry's key is the hash of everything that went into it, so an entry is never stale
 * and never changed. Entries appear by a rename, so any number of builds may share the folder. What a key consists of is the caller's business.
 *
 *   <root>/v1/ab/ab34…/<file>      the artifact
 *   <root>/v1/ab/ab34…/entry.json  { kind, label, file, bytes, sha256 }
 */

import { createHash, randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { readdir, readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, join } from "node:path";
import { Diagnostic } from "../diagnostics.js";
import { makeFolder } from "../weights/file.js";

const FORMAT = "v1";

export type CacheKind = "object" | "library" | "program";

export interface CacheEntry {
  readonly key: string;
  readonly kind: CacheKind;
  /** What it is, for people: the name of the source. */
  readonly label: string;
  readonly bytes: number;
  readonly lastUsed: Date;
}

interface EntryFile {
  readonly kind: CacheKind;
  readonly label: string;
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
}

/** ERNIE_COMPILE_CACHE, else the XDG cache folder. */
export function defaultCacheRoot(env: NodeJS.ProcessEnv = process.env): string {
  if (env.ERNIE_COMPILE_CACHE) return env.ERNIE_COMPILE_CACHE;
  return join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "ernie-compile");
}

export function sha256(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

export class Cache {
  readonly #store: string;

  constructor(readonly root: string = defaultCacheRoot()) {
    this.#store = join(root, FORMAT);
  }

  /** The artifact's path and hash, if it is there and whole. */
  async get(key: string): Promise<{ path: string; sha256: string } | undefined> {
    const dir = this.#dir(key);
    const entry = await readEntry(dir);
    if (!entry) return undefined;
    const path = join(dir, entry.file);
    const found = await stat(path).catch(() => undefined);
    if (found?.size !== entry.bytes) {
      await rm(dir, { recursive: true, force: true });
      return undefined;
    }
    const now = new Date();
    // For `prune`. On a read-only cache the entry is as good without it.
    await utimes(dir, now, now).catch(() => undefined);
    return { path, sha256: entry.sha256 };
  }

  /** Has `make` write the artifact to a path inside the store, then commits it. */
  async put(
    key: string,
    kind: CacheKind,
    label: string,
    fileName: string,
    make: (path: string) => Promise<void>,
  ): Promise<{ path: string; sha256: string }> {
    const dir = this.#dir(key);
    const temporary = join(this.#store, `tmp-${process.pid}-${randomBytes(6).toString("hex")}`);
    try {
      await makeFolder(temporary).catch((cause: unknown) => {
        throw new Diagnostic({
          code: "cache-not-writable",
          kind: "environment",
          message: `the compile cache can't be written: ${cause instanceof Error ? cause.message : String(cause)}`,
          place: this.root,
          hint: "set ERNIE_COMPILE_CACHE to a folder that can be written",
          cause,
        });
      });
      const path = join(temporary, fileName);
      await make(path);
      const data = await readFile(path);
      const entry: EntryFile = { kind, label, file: basename(fileName), bytes: data.length, sha256: sha256(data) };
      await writeFile(join(temporary, "entry.json"), `${JSON.stringify(entry)}\n`);
      await makeFolder(dirname(dir));
      try {
        await rename(temporary, dir);
      } catch (error) {
        // Another build was first: its entry has the same key, so it is the same thing.
        if (!existsSync(join(dir, "entry.json"))) throw error;
      }
      return { path: join(dir, entry.file), sha256: entry.sha256 };
    } finally {
      await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    }
  }

  /** Most recently used first. */
  async list(): Promise<readonly CacheEntry[]> {
    const entries: CacheEntry[] = [];
    for (const prefix of await readdir(this.#store).catch(() => [])) {
      if (prefix.length !== 2) continue;
      for (const key of await readdir(join(this.#store, prefix)).catch(() => [])) {
        const dir = join(this.#store, prefix, key);
        const entry = await readEntry(dir);
        const info = await stat(dir).catch(() => undefined);
        if (entry && info) entries.push({ key, kind: entry.kind, label: entry.label, bytes: entry.bytes, lastUsed: info.mtime });
      }
    }
    return entries.sort((a, b) => b.lastUsed.getTime() - a.lastUsed.getTime() || (a.key < b.key ? -1 : 1));
  }

  /** Removes what was not used for `olderThanDays`, then the longest unused until the rest fits `maxBytes`; and what a killed build left. */
  async prune(limits: {
    readonly olderThanDays?: number;
    readonly maxBytes?: number;
    readonly all?: boolean;
  }): Promise<{ removed: number; bytes: number }> {
    const oldest = limits.olderThanDays === undefined ? Number.NEGATIVE_INFINITY : Date.now() - limits.olderThanDays * 86_400_000;
    let kept = 0;
    let removed = 0;
    let bytes = 0;
    for (const entry of await this.list()) {
      kept += entry.bytes;
      if (!limits.all && entry.lastUsed.getTime() >= oldest && kept <= (limits.maxBytes ?? Number.POSITIVE_INFINITY)) continue;
      kept -= entry.bytes;
      await rm(this.#dir(entry.key), { recursive: true, force: true });
      removed++;
      bytes += entry.bytes;
    }
    for (const name of await readdir(this.#store).catch(() => [])) {
      const owner = /^tmp-([0-9]+)-/.exec(name)?.[1];
      if (owner && !isAlive(Number(owner))) await rm(join(this.#store, name), { recursive: true, force: true });
    }
    return { removed, bytes };
  }

  #dir(key: string): string {
    return join(this.#store, key.slice(0, 2), key);
  }
}

async function readEntry(dir: string): Promise<EntryFile | undefined> {
  try {
    const entry = JSON.parse(await readFile(join(dir, "entry.json"), "utf8")) as Partial<EntryFile> | null;
    const { kind, label, file, bytes, sha256: hash } = entry ?? {};
    const whole = [kind, label, file, hash].every((text) => typeof text === "string") && typeof bytes === "number";
    return whole && file === basename(file as string) ? (entry as EntryFile) : undefined;
  } catch {
    return undefined;
  }
}

/** Whether a process with this id exists. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
