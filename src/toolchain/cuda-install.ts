/**
 * A CUDA toolkit without a system's: nvcc and Triton from the wheels that their makers publish, put into a folder of ours through the user's Python.
 * The versions are pinned: newer compilers emit code that drivers of the 580 series refuse. Who looks for a toolkit is nvcc.ts.
 *
 *   <cache>/toolchains/cuda-13.0/          a virtual environment of Python
 *   <cache>/toolchains/cuda-13.0.json      written last: what is in it
 */

import { existsSync, readFileSync } from "node:fs";
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import { Diagnostic } from "../diagnostics.js";
import { defaultCacheRoot } from "./cache.js";

const CUDA = "13.0";
const PACKAGES = [
  ...["nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-runtime", "nvidia-cuda-cccl"].map((name) => `${name}==${CUDA}.*`),
  "triton==3.6.0",
] as const;

export interface InstalledCuda {
  /** The toolkit: bin/nvcc and so on lie in it. */
  readonly toolkit: string;
  /** A Python that can import Triton. */
  readonly python: string;
}

export interface InstallOptions {
  readonly cacheRoot?: string | undefined;
  /** The Python to make the environment with; `python3` by default. */
  readonly python?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onStep?: (what: string) => void;
}

function folderOf(cacheRoot = defaultCacheRoot()): string {
  return join(cacheRoot, "toolchains", `cuda-${CUDA}`);
}

/** What `installCuda` put there, if it came to its end. */
export function installedCuda(cacheRoot?: string): InstalledCuda | undefined {
  const folder = folderOf(cacheRoot);
  try {
    const { toolkit } = JSON.parse(readFileSync(`${folder}.json`, "utf8")) as { toolkit?: unknown };
    if (typeof toolkit !== "string" || toolkit.startsWith("/") || toolkit.includes("..")) return undefined;
    const found = { toolkit: join(folder, toolkit), python: join(folder, "bin", "python3") };
    return existsSync(join(found.toolkit, "bin", "nvcc")) ? found : undefined;
  } catch {
    return undefined;
  }
}

/** Fills the folder anew. An environment knows its own path, so it is made in place; the note beside it says that it is whole. */
export async function installCuda(options: InstallOptions = {}): Promise<InstalledCuda> {
  const { python = "python3", signal, onStep = () => undefined } = options;
  const folder = folderOf(options.cacheRoot);
  await rm(`${folder}.json`, { force: true });
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  onStep(`a virtual environment with ${python}`);
  await runPython(
    python,
    ["-m", "venv", folder],
    "install Python 3.9 or newer with its venv module (Debian, Ubuntu: `apt install python3-venv`)",
    signal,
  );
  onStep(`${PACKAGES.join(", ")} (about 500 MB)`);
  const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--only-binary=:all:", ...PACKAGES];
  await runPython(
    join(folder, "bin", "python3"),
    pip,
    "pip must reach a package index; or name a toolkit with --cuda or CUDA_HOME",
    signal,
  );
  const toolkit = await findToolkit(folder);
  const note = `${folder}.json.tmp`;
  await writeFile(note, `${JSON.stringify({ toolkit, packages: PACKAGES })}\n`);
  await rename(note, `${folder}.json`);
  return installedCuda(options.cacheRoot) as InstalledCuda;
}

/** `lib/python3.x/site-packages/nvidia/cu13` within the environment. */
async function findToolkit(folder: string): Promise<string> {
  for (const python of await readdir(join(folder, "lib"))) {
    const toolkit = join("lib", python, "site-packages", "nvidia", "cu13");
    if (existsSync(join(folder, toolkit, "bin", "nvcc"))) return toolkit;
  }
  throw new Diagnostic({
    code: "cuda-install-failed",
    kind: "environment",
    message: "pip installed its packages, but no nvcc is among them",
    place: folder,
    hint: "try again; or name a toolkit with --cuda or CUDA_HOME",
  });
}

async function runPython(python: string, args: readonly string[], hint: string, signal: AbortSignal | undefined): Promise<void> {
  const cancel = signal ? { cancelSignal: signal } : {};
  const result = await execa(python, args, { reject: false, all: true, timeout: 900_000, ...cancel });
  signal?.throwIfAborted();
  if (result.exitCode === 0) return;
  const tail = (result.all ?? "").trim().split("\n").slice(-8).join("\n");
  const ended = result.exitCode === undefined ? (result.originalMessage ?? "it could not be run") : `exit ${result.exitCode}`;
  throw new Diagnostic({
    code: "cuda-install-failed",
    kind: "environment",
    message: `${args.slice(0, 2).join(" ")} failed: ${ended}${tail ? `\n${tail}` : ""}`,
    place: python,
    hint,
  });
}
