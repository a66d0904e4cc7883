/**
 * Compares files of a package with its manifest before they are used. For code and what JavaScript reads: a library that was cut short ends the
 * process when it is mapped, so it is hashed first. All files together, and the weights, are compared by the runtime (runtime/src/loader.cpp).
 */

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Diagnostic } from "../diagnostics.js";

export const REBUILD = "build the package again with `ernie-compile build`";

export class PackageFiles {
  private constructor(
    readonly root: string,
    readonly build: string,
    readonly files: Readonly<Record<string, { readonly sha256?: unknown } | undefined>>,
  ) {}

  static async open(root: string, build: string): Promise<PackageFiles> {
    const place = join(root, "manifest.json");
    const text = await read(place);
    let manifest: { readonly build?: unknown; readonly files?: unknown } | null;
    try {
      manifest = JSON.parse(text.toString()) as typeof manifest;
    } catch (cause) {
      throw packageChanged(place, "found text that is not JSON", cause);
    }
    if (manifest?.build !== build) throw packageChanged(place, `found another build, expected ${build}: a new build came just now`);
    const { files } = manifest;
    if (typeof files !== "object" || files === null) throw packageChanged(place, "found no list of files");
    return new PackageFiles(root, build, files as PackageFiles["files"]);
  }

  path(file: string): string {
    return join(this.root, this.build, file);
  }

  /** The bytes of a file, which are those that were built. */
  async read(file: string): Promise<Buffer> {
    const path = this.path(file);
    const expected = Object.hasOwn(this.files, file) ? this.files[file]?.sha256 : undefined;
    if (typeof expected !== "string") throw packageChanged(path, "found a file that the manifest does not list");
    const bytes = await read(path);
    const found = createHash("sha256").update(bytes).digest("hex");
    if (found !== expected) throw packageChanged(path, `found sha256 ${found}, expected ${expected}`);
    return bytes;
  }
}

export function packageChanged(place: string, message: string, cause?: unknown): Diagnostic {
  return new Diagnostic({ code: "package-changed", place, message, hint: REBUILD, cause });
}

async function read(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw packageChanged(path, cause instanceof Error ? cause.message : String(cause), cause);
  }
}
