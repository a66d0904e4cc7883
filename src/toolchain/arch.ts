/**
 * Levels of a target's instruction set: what each needs of a CPU and which compiler flags it stands for.
 * `native` is a question, not a level: it is resolved to one of these before anything is generated, so the same resolved request gives the
 * same bytes on any machine. The runtime checks the level again before the first vector instruction.
 */

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

export type ArchLevel = keyof typeof ARCH_LEVELS;
export const ARCH_NAMES = Object.keys(ARCH_LEVELS) as ArchLevel[];

export function isArchLevel(name: string): name is ArchLevel {
  return Object.hasOwn(ARCH_LEVELS, name);
}

export function archFlags(level: ArchLevel): readonly string[] {
  return ARCH_LEVELS[level].flags;
}

/** How many levels lie below this one. */
export function archIndex(level: ArchLevel): number {
  return ARCH_NAMES.indexOf(level);
}

/** The number of f32 lanes of one vector register. */
export function vectorLanes(level: ArchLevel): number {
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
export function bestArch(flags: ReadonlySet<string>): ArchLevel | undefined {
  return ARCH_NAMES.findLast((name) => ARCH_LEVELS[name].needs.every((flag) => flags.has(flag)));
}

/** Flags that `level` needs and the CPU lacks. */
export function missingFlags(level: ArchLevel, flags: ReadonlySet<string>): readonly string[] {
  return ARCH_LEVELS[level].needs.filter((flag) => !flags.has(flag));
}

/** What `--arch` says, as a level. A level that this CPU lacks is fine: building for another machine is allowed. */
export function resolveArch(requested: string, flags: () => ReadonlySet<string> = readCpuFlags): ArchLevel {
  if (isArchLevel(requested)) return requested;
  if (requested === "native") {
    const found = flags();
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
  if (/^sm_[0-9]+a?$/.test(requested)) {
    throw new Diagnostic({
      code: "arch-unsupported",
      kind: "unsupported",
      message: `no code is generated for ${requested} yet`,
      place: "arch",
      hint: `use one of ${ARCH_NAMES.join(", ")}`,
    });
  }
  throw new Diagnostic({
    code: "arch-unknown",
    message: `found ${JSON.stringify(requested)}, expected native or one of ${ARCH_NAMES.join(", ")}`,
    place: "arch",
    hint: "`ernie-compile doctor` says what this CPU has",
  });
}
