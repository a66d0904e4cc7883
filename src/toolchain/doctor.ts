/** What `ernie-compile doctor` reports: what this machine has, what is missing, and the remedy. Returns data; the CLI shows it. */

import { constants } from "node:fs";
import { access, readFile, statfs } from "node:fs/promises";
import { availableParallelism, totalmem } from "node:os";
import { execa } from "execa";
import { Diagnostic } from "../diagnostics.js";
import { makeFolder } from "../weights/file.js";
import { ARCH_LEVELS, bestArch, missingFlags, readCpuFlags } from "./arch.js";
import { defaultCacheRoot } from "./cache.js";
import { findCompiler, MIN_VERSION } from "./compiler.js";
import { installedCuda } from "./cuda-install.js";
import { findNvcc } from "./nvcc.js";

export interface Check {
  readonly name: string;
  /** `fail`: nothing can be built or run here. `warn`: it works, but less well. */
  readonly status: "ok" | "warn" | "fail";
  readonly found: string;
  readonly remedy?: string;
}

export interface DoctorOptions {
  readonly cxx?: string | undefined;
  readonly cacheRoot?: string | undefined;
  readonly env?: NodeJS.ProcessEnv;
}

const GIB = 2 ** 30;

export async function diagnose(options: DoctorOptions = {}): Promise<readonly Check[]> {
  const env = options.env ?? process.env;
  const cacheRoot = options.cacheRoot ?? defaultCacheRoot(env);
  return await Promise.all([
    checkPlatform(),
    checkNode(),
    checkCompiler(options.cxx, env),
    checkNvcc(cacheRoot, env),
    checkTriton(cacheRoot),
    checkGpu(),
    checkCpu(),
    checkCores(),
    checkMemory(),
    checkHugePages(),
    checkCache(cacheRoot),
    checkDisk(cacheRoot),
  ]);
}

function checkPlatform(): Check {
  const found = `${process.platform} ${process.arch}`;
  if (process.platform === "linux" && process.arch === "x64") return { name: "platform", status: "ok", found };
  return { name: "platform", status: "fail", found, remedy: "ernie-compile runs on Linux x86-64 for now" };
}

function checkNode(): Check {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  const found = `Node ${process.versions.node}`;
  if (major > 20 || (major === 20 && minor >= 19)) return { name: "node", status: "ok", found };
  return { name: "node", status: "fail", found, remedy: "use Node 20.19 or newer" };
}

async function checkCompiler(cxx: string | undefined, env: NodeJS.ProcessEnv): Promise<Check> {
  try {
    const compiler = await findCompiler(cxx, env);
    return { name: "compiler", status: "ok", found: `${compiler.command}: ${compiler.kind} ${compiler.version} for ${compiler.machine}` };
  } catch (error) {
    if (!(error instanceof Diagnostic)) throw error;
    return {
      name: "compiler",
      status: "fail",
      found: error.summary,
      remedy: error.hint ?? `use g++ ${MIN_VERSION.gcc} or clang++ ${MIN_VERSION.clang}, or newer`,
    };
  }
}

/** Without it packages for CPUs can be built as ever. */
async function checkNvcc(cacheRoot: string, env: NodeJS.ProcessEnv): Promise<Check> {
  try {
    const { version, found, command } = await findNvcc({ cacheRoot, env });
    return {
      name: "nvcc",
      status: "ok",
      found: `nvcc ${version} (${found === "installed" ? "installed by toolchain install" : `${found}: ${command}`})`,
    };
  } catch (error) {
    if (!(error instanceof Diagnostic)) throw error;
    return {
      name: "nvcc",
      status: "warn",
      found: error.summary,
      remedy: error.hint ?? "for GPU packages: ernie-compile toolchain install cuda",
    };
  }
}

async function checkTriton(cacheRoot: string): Promise<Check> {
  const python = installedCuda(cacheRoot)?.python ?? "python3";
  const { exitCode, stdout } = await execa(python, ["-c", "import triton; print(triton.__version__)"], { reject: false, timeout: 60_000 });
  if (exitCode === 0) return { name: "triton", status: "ok", found: `triton ${stdout.trim()}` };
  return {
    name: "triton",
    status: "warn",
    found: "not there",
    remedy: "`ernie-compile toolchain install cuda` installs it; kernels are made with nvcc alone until then",
  };
}

async function checkGpu(): Promise<Check> {
  const query = ["--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"];
  const { exitCode, stdout } = await execa("nvidia-smi", query, { reject: false, timeout: 20_000 });
  const [name, capability, driver] = (exitCode === 0 ? (stdout ?? "") : "").split("\n")[0]?.split(", ") ?? [];
  if (!name || !capability)
    return { name: "gpu", status: "ok", found: "none, or no driver: GPU packages can be built here, and run where there is one" };
  return { name: "gpu", status: "ok", found: `${name}, compute capability ${capability}, driver ${driver}` };
}

function checkCpu(): Check {
  const flags = readCpuFlags();
  const level = bestArch(flags);
  if (!level) {
    const missing = missingFlags("x86-64-v3", flags);
    return {
      name: "cpu",
      status: "fail",
      found: flags.size ? `lacks ${missing.join(", ")}` : "/proc/cpuinfo can't be read",
      remedy: "packages run on x86-64-v3 CPUs (AVX2, FMA) and newer; for another machine build with --arch",
    };
  }
  const next = missingFlags("x86-64-v4-bf16", flags);
  return {
    name: "cpu",
    status: "ok",
    found: next.length
      ? `${level} (for x86-64-v4-bf16 it lacks ${next.join(", ")})`
      : `${level}, the highest of ${Object.keys(ARCH_LEVELS).length} levels`,
  };
}

function checkCores(): Check {
  const cores = availableParallelism();
  return { name: "cores", status: "ok", found: `${cores}` };
}

function checkMemory(): Check {
  const total = totalmem();
  const found = `${(total / GIB).toFixed(1)} GiB`;
  if (total >= 2 * GIB) return { name: "memory", status: "ok", found };
  return { name: "memory", status: "warn", found, remedy: "the 0.3B model needs about 1 GiB; add memory or swap for larger ones" };
}

/** Weights are read once a token: with 4 KiB pages the page walks cost bandwidth. */
async function checkHugePages(): Promise<Check> {
  const path = "/sys/kernel/mm/transparent_hugepage/enabled";
  const mode = await readFile(path, "utf8").then(
    (text) => /\[(\w+)\]/.exec(text)?.[1],
    () => undefined,
  );
  if (mode === "always" || mode === "madvise") return { name: "huge pages", status: "ok", found: mode };
  return {
    name: "huge pages",
    status: "warn",
    found: mode ?? "not there",
    remedy: `as root: echo madvise > ${path} (decoding is a few percent faster)`,
  };
}

async function checkCache(root: string): Promise<Check> {
  try {
    await makeFolder(root);
    await access(root, constants.W_OK);
    return { name: "cache", status: "ok", found: root };
  } catch (error) {
    return {
      name: "cache",
      status: "fail",
      found: `${root}: ${error instanceof Error ? error.message : String(error)}`,
      remedy: "set ERNIE_COMPILE_CACHE to a folder that can be written",
    };
  }
}

async function checkDisk(root: string): Promise<Check> {
  const info = await statfs(root).catch(() => statfs("/"));
  const free = info.bavail * info.bsize;
  const found = `${(free / GIB).toFixed(1)} GiB free`;
  if (free >= 2 * GIB) return { name: "disk", status: "ok", found };
  return { name: "disk", status: "warn", found, remedy: "a package needs twice the checkpoint's size while it is built; free some space" };
}
