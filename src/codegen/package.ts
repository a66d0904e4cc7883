/**
 * Which files a package is made of, and its manifest. Where they are written and how they become visible is output-folder.ts.
 *
 *     index.js .cjs .d.ts .d.cts  package.json  manifest.json
 *     build-<hash>/  include/ src/ device/ kernels/ CMakeLists.txt exports.map  lib/  weights.safetensors  tokenizer.model text.json chat.json  host.cjs jinja-worker.cjs
 */

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { copyFile, cp, mkdir, readdir, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { UsedKernel } from "../kernels/kernel-def.js";
import { projectPath } from "../project.js";
import type { Target } from "../toolchain/arch.js";
import { sha256 } from "../toolchain/cache.js";
import type { Bindings } from "./bindings.js";
import type { RootFile } from "./output-folder.js";

export const WEIGHTS_FILE = "weights.safetensors";
/** Sources of the runtime that a package carries, so that it can be built anywhere; the addon and the packer stay with the compiler. */
const RUNTIME_FOLDERS = ["include", "src", "device"] as const;
const HOST_FILES = ["host.cjs", "jinja-worker.cjs"] as const;

export interface ManifestFile {
  readonly sha256: string;
  readonly bytes: number;
}

/** Files of the build folder, with what the manifest says of them. */
export class BuildFiles {
  readonly #files = new Map<string, ManifestFile>();

  constructor(readonly dir: string) {}

  async write(path: string, text: string): Promise<void> {
    const target = join(this.dir, path);
    await mkdir(dirname(target), { recursive: true });
    await writeFile(target, text);
    this.#files.set(path, { sha256: sha256(text), bytes: Buffer.byteLength(text) });
  }

  async copy(path: string, from: string): Promise<void> {
    const target = join(this.dir, path);
    await mkdir(dirname(target), { recursive: true });
    await copyFile(from, target);
    await this.add(path);
  }

  /** Lists a file that somebody else wrote there. */
  async add(path: string): Promise<void> {
    const target = join(this.dir, path);
    const hash = createHash("sha256");
    for await (const chunk of createReadStream(target, { highWaterMark: 2 ** 22 })) hash.update(chunk as Buffer);
    this.#files.set(path, { sha256: hash.digest("hex"), bytes: (await stat(target)).size });
  }

  /** By path, sorted. */
  list(): { readonly [path: string]: ManifestFile } {
    return Object.fromEntries([...this.#files].sort(([a], [b]) => (a < b ? -1 : 1)));
  }
}

/** Copies what every package of this compiler has: the runtime's sources and the JavaScript of the host. */
export async function copyFixedFiles(files: BuildFiles, target: Target): Promise<void> {
  for (const folder of RUNTIME_FOLDERS) {
    const from = projectPath(`runtime/${folder}`);
    await cp(from, join(files.dir, folder), {
      recursive: true,
      filter: (path) =>
        (!basename(path).includes(".") || /\.(h|hpp|cpp|cuh)$/.test(path)) && belongs(`${folder}${path.slice(from.length)}`, target),
    });
  }
  for (const path of await sourcesBelow(files.dir)) await files.add(path);
  for (const name of HOST_FILES) await files.copy(name, projectPath(`dist/host/bundle/${name}`));
}

/** A package has the code of its own device; the runtime shares the CPU's idea of a step and a team. */
function belongs(path: string, target: Target): boolean {
  if (target === "cpu") return path !== "src/cuda" && path !== "device/cuda";
  return !path.startsWith("device/cpu/") || path === "device/cpu/kernel.hpp";
}

async function sourcesBelow(dir: string, prefix = ""): Promise<string[]> {
  const entries = await readdir(join(dir, prefix), { withFileTypes: true });
  const paths = await Promise.all(
    entries.map((entry) => (entry.isDirectory() ? sourcesBelow(dir, `${prefix}${entry.name}/`) : [`${prefix}${entry.name}`])),
  );
  return paths.flat().sort();
}

/** Hash of all sources that the library is made of; with the flags and the compiler it names a build. */
export function sourcesHash(files: BuildFiles): string {
  return sha256(JSON.stringify(Object.entries(files.list()).filter(([path]) => /\.(h|hpp|cpp|cu|cuh|S|txt|map)$/.test(path))));
}

export function rootFiles({ types, esm, cjs }: Bindings): ReadonlyMap<RootFile, string> {
  const packageJson = {
    name: "ernie-model",
    version: "0.0.0",
    private: true,
    type: "module",
    main: "./index.cjs",
    types: "./index.d.ts",
    exports: {
      ".": { import: { types: "./index.d.ts", default: "./index.js" }, require: { types: "./index.d.cts", default: "./index.cjs" } },
      "./manifest.json": "./manifest.json",
    },
  };
  return new Map<RootFile, string>([
    ["index.js", esm],
    ["index.cjs", cjs],
    ["index.d.ts", types],
    ["index.d.cts", types],
    ["package.json", `${JSON.stringify(packageJson, null, 2)}\n`],
  ]);
}

/** What the manifest says of the files at the root that run. Types are left out: between them and the manifest a build may be killed. */
export function rootList(files: ReadonlyMap<RootFile, string>): { readonly [path: string]: ManifestFile } {
  const code = [...files].filter(([name]) => !/\.d\.c?ts$/.test(name));
  return Object.fromEntries(code.map(([name, text]) => [name, { sha256: sha256(text), bytes: Buffer.byteLength(text) }]));
}

export function kernelList(kernels: readonly UsedKernel[]): readonly object[] {
  return kernels.map(({ name, kernel, params, functions, launches }) => ({
    name,
    op: kernel.op,
    kernel: kernel.name,
    order: kernel.order,
    params,
    functions: functions.map((entry) => entry.name),
    launches,
  }));
}
