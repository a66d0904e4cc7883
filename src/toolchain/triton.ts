/**
 * Finds a Python that has Triton, and compiles kernels with it (runtime/tools/triton_compile.py) to machine code through the cache: no GPU is needed.
 * Triton is asked for only where a measured row chooses one of its kernels.
 */

import { join } from "node:path";
import { execa } from "execa";
import { bug, Diagnostic } from "../diagnostics.js";
import { projectPath } from "../project.js";
import { CUDA_ARCHS, type CudaArch } from "./arch.js";
import { type Cache, sha256 } from "./cache.js";
import { compileEach } from "./compile-each.js";
import { installedCuda } from "./cuda-install.js";
import { withSlot } from "./cxx.js";
import type { CubinFile } from "./nvcc.js";

export interface Triton {
  readonly python: string;
  /** `3.6.0` */
  readonly version: string;
  readonly identity: string;
}

/** What we generate is for this one; its compiler's interface changes with each. */
const VERSION = "3.6";
const INSTALL = "`ernie-compile toolchain install cuda` installs it, or name a Python that has it in ERNIE_COMPILE_PYTHON";
const SCRIPT = "runtime/tools/triton_compile.py";

/** ERNIE_COMPILE_PYTHON, else what our own command installed, else `python3`; or what is in the way, in words. */
export async function findTriton(cacheRoot?: string, env: NodeJS.ProcessEnv = process.env): Promise<Triton | string> {
  const given = env.ERNIE_COMPILE_PYTHON || undefined;
  const installed = installedCuda(cacheRoot);
  const reasons: string[] = [];
  for (const python of given === undefined ? [...(installed ? [installed.python] : []), "python3"] : [given]) {
    const asked = "import importlib.metadata as m; print(m.version('triton'))";
    const result = await execa(python, ["-c", asked], { reject: false, timeout: 20_000 });
    const version = result.exitCode === 0 ? result.stdout.trim() : undefined;
    if (version?.startsWith(`${VERSION}.`)) return { python, version, identity: sha256(`triton ${version}`) };
    reasons.push(version === undefined ? `${python} has none` : `${python} has ${version}`);
  }
  return `expected Triton ${VERSION}, and ${reasons.join(", ")}`;
}

export function tritonMissing(reason: string, kernels: readonly string[]): Diagnostic {
  return new Diagnostic({
    code: "triton-missing",
    kind: "environment",
    message: `measurements choose Triton's kernel for ${kernels.join(", ")}, and there is no Triton (${reason}): CUDA's are used`,
    place: "PATH",
    hint: INSTALL,
  });
}

export interface TritonUnit {
  /** Of its function, and of the cubin. */
  readonly name: string;
  /** Within `root`. */
  readonly source: string;
  readonly text: string;
  readonly threads: number;
  readonly stages: number;
  /** Bytes of shared memory that a launch brings. */
  readonly sharedBytes: number;
}

export interface TritonOptions {
  readonly triton: Triton;
  readonly cache: Cache;
  readonly root: string;
  readonly arch: CudaArch;
  readonly signal?: AbortSignal | undefined;
  readonly onUnit?: ((unit: { readonly source: string; readonly cached: boolean; readonly ms: number }) => void) | undefined;
}

export async function compileTriton(units: readonly TritonUnit[], options: TritonOptions): Promise<readonly CubinFile[]> {
  return await compileEach(units, options.signal, (unit, signal) => compileUnit(unit, { ...options, signal }));
}

async function compileUnit(unit: TritonUnit, { triton, cache, root, arch, signal, onUnit }: TritonOptions): Promise<CubinFile> {
  const start = performance.now();
  const capability = CUDA_ARCHS[arch].capability.join("");
  const { name, text, threads, stages, sharedBytes } = unit;
  const key = sha256(JSON.stringify({ what: "triton", triton: triton.identity, capability, name, text, threads, stages, sharedBytes }));
  const label = `${name}.cubin`;
  const hit = await cache.get(key);
  if (!hit) signal?.throwIfAborted();
  const made =
    hit ??
    (await cache.put(key, "object", label, label, async (out) => {
      const cancel = signal ? { cancelSignal: signal } : {};
      const args = [projectPath(SCRIPT), join(root, unit.source), name, capability, String(threads / 32), String(stages), out];
      // Triton's own cache would lie in the user's home; ours has the result.
      const env = { LC_ALL: "C", TRITON_CACHE_DIR: `${out}.triton`, PYTHONDONTWRITEBYTECODE: "1" };
      const result = await withSlot(() => execa(triton.python, args, { reject: false, timeout: 300_000, env, ...cancel }));
      signal?.throwIfAborted();
      if (result.exitCode !== 0) throw tritonFailed(triton, label, result);
      checkMade(unit, JSON.parse(result.stdout) as Made);
    }));
  onUnit?.({ source: label, cached: hit !== undefined, ms: performance.now() - start });
  return { name, path: made.path, sha256: made.sha256, cached: hit !== undefined };
}

interface Made {
  readonly threads: number;
  readonly shared: number;
  readonly scratch: number;
  readonly frame: number;
}

/** The plan was made before the code: what it says must be what Triton did. */
function checkMade(unit: TritonUnit, made: Made): void {
  if (made.frame > 0)
    throw new Diagnostic({
      code: "kernel-spills",
      kind: "bug",
      message: `${unit.name} keeps ${made.frame} bytes of stack`,
      place: `${unit.name}.cubin`,
      hint: "choose smaller tiles for it in its table entry",
    });
  if (made.threads !== unit.threads || made.shared > unit.sharedBytes || made.scratch > 0)
    throw bug(
      `Triton's ${unit.name} wants ${JSON.stringify(made)}, and its entry says ${unit.threads} threads and ${unit.sharedBytes} bytes`,
    );
}

interface Ended {
  readonly exitCode?: number | undefined;
  readonly signal?: string | undefined;
  readonly stderr: string;
  readonly timedOut: boolean;
}

function tritonFailed(triton: Triton, label: string, { exitCode, signal, stderr, timedOut }: Ended): Diagnostic {
  const tail = stderr.trim().split("\n").slice(-20).join("\n");
  return new Diagnostic({
    code: "triton-failed",
    kind: "environment",
    message: `Triton ${triton.version} did not make ${label} (${timedOut ? "past 5 minutes" : `exit ${exitCode ?? signal}`})${tail ? `\n${tail}` : ""}`,
    place: triton.python,
    hint: /no space left/i.test(tail)
      ? "free some disk space, or move the cache with ERNIE_COMPILE_CACHE"
      : "build with --tuning none, which takes no kernel of Triton's; or `ernie-compile toolchain install cuda`",
  });
}
