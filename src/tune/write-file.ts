/** Writes a result of a sweep so that a reader sees the old file or the new one, packed where its name ends in .gz. */

import { randomBytes } from "node:crypto";
import { rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { Diagnostic } from "../diagnostics.js";
import { fileError } from "../weights/file.js";

export async function writeWhole(path: string, text: string): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString("hex")}`);
  try {
    // `rename` onto a folder says only that it is one.
    const there = await stat(path).catch(() => undefined);
    if (there && !there.isFile())
      throw new Diagnostic({
        code: "file-not-regular",
        message: "found a folder or device, expected a file",
        place: path,
        hint: "name another file",
      });
    await writeFile(temporary, path.endsWith(".gz") ? gzipSync(text) : text);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw fileError(error, path);
  }
}
