/** Reads a package's manifest.json. What the runtime checks at load is its own business (runtime/src/manifest.cpp); this serves the command line. */

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Diagnostic } from "../diagnostics.js";

export interface Manifest {
  readonly build: string;
  readonly build_id: string;
  readonly target: { readonly arch: string; readonly activations: string; readonly target: string };
  readonly model: { readonly architecture: string; readonly parameters: number; readonly layers: number; readonly vocabSize: number };
  readonly limits: { readonly [name: string]: number };
  readonly memory: {
    readonly weights: number;
    readonly arena: number;
    readonly kvBytesPerToken: number;
    readonly byContext: { readonly [tokens: string]: number };
  };
  readonly programs: readonly { readonly name: string; readonly kind: string; readonly launches: number; readonly arenaBytes: number }[];
  readonly kernels: readonly {
    readonly name: string;
    readonly op: string;
    readonly kernel: string;
    readonly launches: { readonly [program: string]: number };
  }[];
  readonly files: { readonly [path: string]: { readonly sha256: string; readonly bytes: number } };
}

/** Names of a build folder and of files in it are plain: nothing in a manifest leads out of the package. */
const BUILD = /^build-[0-9a-f]+$/;
const FILE = /^(?!.*(?:^|\/)\.{1,2}(?:\/|$))[\w.-]+(?:\/[\w.-]+)*$/;

export async function readManifest(root: string): Promise<Manifest> {
  const place = join(root, "manifest.json");
  const refuse = (message: string, cause?: unknown) =>
    new Diagnostic({ code: "manifest", place, message, hint: "expected a package that `ernie-compile build` made", cause });
  const text = await readFile(place, "utf8").catch((error: unknown) => {
    throw refuse(error instanceof Error ? error.message : String(error), error);
  });
  let manifest: Manifest;
  try {
    manifest = JSON.parse(text) as Manifest;
  } catch (error) {
    throw refuse("not JSON", error);
  }
  if (typeof manifest !== "object" || manifest === null || typeof manifest.files !== "object" || manifest.files === null)
    throw refuse("no list of files");
  if (!BUILD.test(String(manifest.build))) throw refuse(`found the build folder ${JSON.stringify(manifest.build)}, expected build-<hash>`);
  for (const [file, entry] of Object.entries(manifest.files)) {
    if (!FILE.test(file)) throw refuse(`found the file name ${JSON.stringify(file)}, expected a plain path inside the package`);
    if (typeof entry?.sha256 !== "string" || !Number.isSafeInteger(entry.bytes)) throw refuse(`${file}: expected sha256 and bytes`);
  }
  return manifest;
}
