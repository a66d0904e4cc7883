/**
 * Reading regular files at positions, and making folders, with the errors a user can act on. Symbolic links are followed: model folders in
 * a hub cache are made of them.
 */

import { type FileHandle, mkdir, open, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { Diagnostic } from "../diagnostics.js";

/** Node reads at most 2^31 - 1 bytes a call; this is below it and large enough for the call not to matter. */
const READ_BYTES = 2 ** 26;

export interface OpenFile {
  readonly path: string;
  readonly handle: FileHandle;
  readonly bytes: number;
}

/** Opens `path`, gives it to `use` and closes it, whatever happens. */
export async function withFile<T>(path: string, use: (file: OpenFile) => Promise<T>): Promise<T> {
  let handle: FileHandle;
  let bytes: number;
  try {
    // Before `open`, which would wait for ever on a pipe.
    const info = await stat(path);
    if (!info.isFile())
      throw new Diagnostic({
        code: "file-not-regular",
        message: "found a folder or device, expected a file",
        place: path,
        hint: "check the path",
      });
    bytes = info.size;
    handle = await open(path, "r");
  } catch (error) {
    throw fileError(error, path);
  }
  try {
    return await use({ path, handle, bytes });
  } finally {
    await handle.close();
  }
}

/** Fills `buffer` from `offset` on; a file that ends before is an error, since every range was checked against its size. */
export async function readFully(file: OpenFile, buffer: Uint8Array, offset: number): Promise<void> {
  let done = 0;
  while (done < buffer.length) {
    const wanted = Math.min(READ_BYTES, buffer.length - done);
    const { bytesRead } = await file.handle.read(buffer, done, wanted, offset + done).catch((error: unknown) => {
      throw fileError(error, file.path);
    });
    if (bytesRead === 0) {
      throw new Diagnostic({
        code: "file-shrank",
        message: `found the end of the file at byte ${offset + done}, expected ${file.bytes} bytes`,
        place: file.path,
        hint: "the file changed while it was read: run again when nothing writes to it",
      });
    }
    done += bytesRead;
  }
}

/**
 * Makes a folder and those above it; gives the first that it made, or undefined if the folder was there. Node's own `recursive` never returns where
 * a file system says "no such folder" of one whose parent is there, as /proc does.
 */
export async function makeFolder(path: string): Promise<string | undefined> {
  try {
    return await makeOne(path);
  } catch (error) {
    const parent = dirname(path);
    if ((error as NodeJS.ErrnoException).code !== "ENOENT" || parent === path) throw error;
    // Others may make the parent at the same time. Once it is there, what this says is meant: below /proc there is no end of "no such folder".
    const made = (await isFolder(parent)) ? undefined : await makeFolder(parent);
    return (await makeOne(path)) === undefined ? made : (made ?? path);
  }
}

/** `path`, or undefined if it was there. */
async function makeOne(path: string): Promise<string | undefined> {
  try {
    await mkdir(path);
    return path;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST" && (await isFolder(path))) return undefined;
    throw error;
  }
}

async function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (info) => info.isDirectory(),
    () => false,
  );
}

/** A Diagnostic for what the file system said; anything else (Diagnostics, an abort, a bug) passes through. */
export function fileError(error: unknown, path: string): unknown {
  if (!(error instanceof Error && "errno" in error && "code" in error)) return error;
  if (error.code === "ENOENT" || error.code === "ENOTDIR") {
    return new Diagnostic({
      code: "file-missing",
      message: "found no such file or folder",
      place: path,
      hint: "check the path",
      cause: error,
    });
  }
  if (error.code === "ENOSPC" || error.code === "EDQUOT") {
    return new Diagnostic({
      code: "disk-full",
      kind: "environment",
      message: "no space is left on the disk",
      place: path,
      hint: "free space there, or write elsewhere with -o",
      cause: error,
    });
  }
  const hint = "check the path, and what this user may read and write there";
  return new Diagnostic({ code: "file-error", kind: "environment", message: error.message, place: path, hint, cause: error });
}
