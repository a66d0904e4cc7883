/**
 * Levels of a target's instruction set: what each needs of the device and which compiler flags it stands for.
 * `native` is a question, not a level: it is resolved to one of these before anything is generated, so the same resolved request gives the
 * same bytes on any machine. The runtime checks the level again before the first vector instruction.
 */

import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { Diagnostic } from "../diagnostics.js";

interface LevelDef {
  /** Names as /proc/cpuinfo spells them. */
  readonly needs: readonly string[];
  readonly flags: readonly string[];
}

const V3 = ["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"] as const;
const V4 = [...V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"] as const;

/** Weakest first. Each level includes those before it. */
export const ARCH_LEVELS = {
  "x86-64-v3": { needs: V3, flags: ["-march=x86-64-v3"] },
  "x86-64-v4": { needs: V4, flags: ["-march=x86-64-v4"] },
  "x86-64-v4-vnni": { needs: [...V4, "avx512_vnni"], flags: ["-march=x86-64-v4", "-mavx512vnni"] },
  "x86-64-v4-bf16": { needs: [...V4, "avx512_vnni", "avx512_bf16"], flags: ["-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"] },
} as const satisfies { readonly [level: string]: LevelDef };

export type CpuArch = keyof typeof ARCH_LEVELS;
export const ARCH_NAMES = Object.keys(ARCH_LEVELS) as CpuArch[];

interface CudaDef {
  /** Compute capability of the devices that run it; within one major number newer devices run older code. */
  readonly capability: readonly [major: number, minor: number];
  /** Code of an `a` architecture runs on exactly this capability. */
  readonly exact: boolean;
  readonly flags: readonly string[];
}

/** Machine code alone: PTX would be compiled by the driver at load, in a second or more. */
export const CUDA_ARCHS = {
  sm_80: { capability: [8, 0], exact: false, flags: ["-gencode", "arch=compute_80,code=sm_80"] },
  sm_90a: { capability: [9, 0], exact: true, flags: ["-gencode", "arch=compute_90a,code=sm_90a"] },
} as const satisfies { readonly [arch: string]: CudaDef };

export type CudaArch = keyof typeof CUDA_ARCHS;
export const CUDA_NAMES = Object.keys(CUDA_ARCHS) as CudaArch[];

export type ArchLevel = CpuArch | CudaArch;
export type Target = "cpu" | "cuda";

export function isCpuArch(name: string): name is CpuArch {
  return Object.hasOwn(ARCH_LEVELS, name);
}

export function isCudaArch(name: string): name is CudaArch {
  return Object.hasOwn(CUDA_ARCHS, name);
}

export function targetOf(arch: ArchLevel): Target {
  return isCudaArch(arch) ? "cuda" : "cpu";
}

export function archFlags(level: ArchLevel): readonly string[] {
  return isCudaArch(level) ? CUDA_ARCHS[level].flags : ARCH_LEVELS[level].flags;
}

/** How many levels lie below this one. */
export function archIndex(level: CpuArch): number {
  return ARCH_NAMES.indexOf(level);
}

/** The number of f32 lanes of one vector register. */
export function vectorLanes(level: CpuArch): number {
  return level === "x86-64-v3" ? 8 : 16;
}

/** Flags of this machine's CPU; empty where /proc/cpuinfo does not say. */
export function readCpuFlags(cpuinfo = "/proc/cpuinfo"): ReadonlySet<string> {
  let text: string;
  try {
    text = readFileSync(cpuinfo, "utf8");
  } catch {
    return new Set();
  }
  const line = /^flags\s*:(.*)$/m.exec(text);
  return new Set((line?.[1] ?? "").trim().split(/\s+/).filter(Boolean));
}

/** The highest level that a CPU with these flags runs, if any. */
export function bestArch(flags: ReadonlySet<string>): CpuArch | undefined {
  return ARCH_NAMES.findLast((name) => ARCH_LEVELS[name].needs.every((flag) => flags.has(flag)));
}

/** Flags that `level` needs and the CPU lacks. */
export function missingFlags(level: CpuArch, flags: ReadonlySet<string>): readonly string[] {
  return ARCH_LEVELS[level].needs.filter((flag) => !flags.has(flag));
}

/** What `--arch` says, as a level of the target. A level that this machine lacks is fine: building for another machine is allowed. */
export function resolveArch(requested: string, target?: "cpu", machine?: Machine): CpuArch;
export function resolveArch(requested: string, target: Target, machine?: Machine): ArchLevel;
export function resolveArch(requested: string, target: Target = "cpu", machine: Machine = THIS_MACHINE): ArchLevel {
  return target === "cuda" ? resolveCuda(requested, machine) : resolveCpu(requested, machine);
}

/** What `native` looks at. */
export interface Machine {
  readonly cpuFlags: () => ReadonlySet<string>;
  /** Compute capability of the first GPU, `9.0`. */
  readonly gpu: () => string | undefined;
}

const THIS_MACHINE: Machine = { cpuFlags: readCpuFlags, gpu: readCapability };

/** As the driver's own tool says it. */
export function readCapability(): string | undefined {
  const { stdout } = spawnSync("nvidia-smi", ["--query-gpu=compute_cap", "--format=csv,noheader"], { encoding: "utf8", timeout: 20_000 });
  return /^\d+\.\d+$/m.exec(stdout ?? "")?.[0];
}

function resolveCpu(requested: string, { cpuFlags }: Machine): CpuArch {
  if (isCpuArch(requested)) return requested;
  if (requested === "native") {
    const found = cpuFlags();
    const best = bestArch(found);
    if (best) return best;
    throw new Diagnostic({
      code: "arch-too-old",
      kind: "environment",
      message: `this CPU lacks ${missingFlags("x86-64-v3", found).join(", ") || "a readable /proc/cpuinfo"}, which x86-64-v3 needs`,
      place: "arch: native",
      hint: `to build for another machine, name its level: ${ARCH_NAMES.join(", ")}`,
    });
  }
  if (isCudaArch(requested)) throw otherTarget(requested, "cpu", "cuda", ARCH_NAMES);
  throw unknownArch(requested, ARCH_NAMES, "`ernie-compile doctor` says what this CPU has");
}

function resolveCuda(requested: string, { gpu }: Machine): CudaArch {
  if (isCudaArch(requested)) return requested;
  if (requested === "native") {
    const found = gpu();
    const [major = 0, minor = 0] = (found ?? "").split(".").map(Number);
    const best = CUDA_NAMES.findLast((name) => {
      const { capability, exact } = CUDA_ARCHS[name];
      return capability[0] === major && (exact ? capability[1] === minor : capability[1] <= minor);
    });
    if (best) return best;
    throw new Diagnostic({
      code: found === undefined ? "arch-no-gpu" : "arch-unsupported",
      kind: found === undefined ? "environment" : "unsupported",
      message:
        found === undefined
          ? "found no GPU to take the arch from"
          : `found a GPU of compute capability ${found}, for which no code is made`,
      place: "arch: native",
      hint: `name the GPU that the package is for: --arch ${CUDA_NAMES.join(" or ")}`,
    });
  }
  if (isCpuArch(requested)) throw otherTarget(requested, "cuda", "cpu", CUDA_NAMES);
  if (/^sm_[0-9]+a?$/.test(requested)) {
    throw new Diagnostic({
      code: "arch-unsupported",
      kind: "unsupported",
      message: `no code is generated for ${requested} yet`,
      place: "arch",
      hint: `use one of ${CUDA_NAMES.join(", ")}`,
    });
  }
  throw unknownArch(requested, CUDA_NAMES, "H100 and H200 are sm_90a, A100 is sm_80");
}

function otherTarget(found: string, target: Target, other: Target, names: readonly string[]): Diagnostic {
  return new Diagnostic({
    code: "arch-other-target",
    message: `found ${found} with target ${target}, expected native or one of ${names.join(", ")}`,
    place: "arch",
    hint: `for ${found} say --target ${other}`,
  });
}

function unknownArch(found: string, names: readonly string[], hint: string): Diagnostic {
  return new Diagnostic({
    code: "arch-unknown",
    message: `found ${JSON.stringify(found)}, expected native or one of ${names.join(", ")}`,
    place: "arch",
    hint,
  });
}
