/** Variants on this machine's CPU: each is a library, and each measurement has a process of its own. */

import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { CpuArch } from "../toolchain/arch.js";
import type { NativeOptions } from "../toolchain/native.js";
import { makeFolder } from "../weights/file.js";
import { Harness } from "./harness.js";
import { hostMemory, LocalBackend, type Platform } from "./local.js";
import type { Machine } from "./records.js";
import type { Turns } from "./turns.js";
import { buildHarness, compileVariant, type RenderVariant, renderVariant } from "./variants.js";

export interface LocalOptions {
  readonly arch: CpuArch;
  readonly machine: Machine;
  readonly native: NativeOptions;
  /** Of one command to a process: more than the slowest variant takes. */
  readonly deadlineMs?: number;
  readonly render?: RenderVariant;
  /** With others that use the machine. */
  readonly turns?: Turns;
}

const DEADLINE_MS = 60_000;

export async function openLocal(options: LocalOptions): Promise<LocalBackend> {
  const { arch, machine, native, deadlineMs = DEADLINE_MS, render = renderVariant } = options;
  await makeFolder(native.cache.root);
  const program = await buildHarness(native);
  const platform: Platform = {
    machine,
    place: native.cache.root,
    signal: native.signal,
    beside: compilersBeside(machine.threads),
    memory: hostMemory,
    source: render,
    compile: (source) => compileVariant(source, arch, native),
    blame: (error) => (error.code === "cxx-failed" ? { status: "compile", reason: error.summary } : undefined),
    start: (_, lines, built) => {
      const own = [`lock ${join(native.cache.root, "device.lock")}`, `threads ${machine.threads}`];
      return Harness.start(program, [...own, ...lines, ...built.map(({ path }) => `variant ${path}`)], deadlineMs);
    },
    release: (harness) => harness.end(),
    close: async () => undefined,
  };
  return new LocalBackend(platform, options.turns);
}

/** Compilers that may run beside so many threads. */
export function compilersBeside(threads: number): number {
  return Math.max(0, availableParallelism() - threads);
}
