/**
 * What measured rows say of choices above a kernel: how a decode step runs, how many tokens of a prompt a step takes, how many threads. What a request says
 * itself stands; without a row, the default.
 */

import type { AnyKernel, KernelParams } from "../../kernels/kernel-def.js";
import { PROMPT_TOKENS, STEPS, type StepOp } from "../../kernels/steps.js";
import { bestRow, type TuningTable } from "../../kernels/tuning.js";
import { type ArchLevel, targetOf } from "../../toolchain/arch.js";

export interface ChosenStep {
  readonly kernel: AnyKernel;
  /** The problem, with values of the tunables. */
  readonly params: KernelParams;
}

/** The choice of an op for a problem, as `rows` rows of it were measured; undefined where the op has none on that target. */
export function selectStep(
  table: TuningTable | undefined,
  op: StepOp,
  arch: ArchLevel,
  problem: KernelParams,
  rows: number,
): ChosenStep | undefined {
  const [first, ...others] = STEPS.filter((entry) => (entry.op as string) === op && entry.target === targetOf(arch));
  if (!first) return undefined;
  const fitting = [first, ...others.filter((other) => other.takes?.(problem, { rows, arch }))].map((kernel) => ({
    kernel,
    params: { ...problem, ...Object.fromEntries((kernel.tunables ?? []).map(({ name, default: value }) => [name, value(problem)])) },
  }));
  // A row is about models that have all that this one has, and no more: experts are not to be taken for none.
  const fields = Object.keys(problem).length;
  const own = (table?.rows ?? []).filter((row) => row.op === op && Object.keys(row.problem).length === fields);
  return bestRow({ device: table?.device ?? "", rows: own }, fitting, rows, fitting[0]) ?? fitting[0];
}

/** Values of a persistent launch's tunables where one was measured to be faster than launches; undefined elsewhere. */
export function selectPersistent(
  table: TuningTable | undefined,
  arch: ArchLevel,
  problem: KernelParams,
  sequences: number,
): KernelParams | undefined {
  const chosen = selectStep(table, "step_decode", arch, { ...problem, sequences }, sequences);
  return chosen?.kernel.name === "persistent" ? tunedOf(chosen) : undefined;
}

export function selectChunk(table: TuningTable | undefined, arch: ArchLevel, problem: KernelParams): number {
  const chosen = selectStep(table, "step_prefill", arch, problem, PROMPT_TOKENS.step_prefill[targetOf(arch)]);
  return Number(chosen?.params.chunk);
}

/** 0 is all that there are. `cores`: of this machine, which a table of its class is about. */
export function selectThreads(table: TuningTable | undefined, arch: ArchLevel, problem: KernelParams, cores: number): number {
  const chosen = selectStep(table, "step_request", arch, { ...problem, cores }, PROMPT_TOKENS.step_request);
  return Number(chosen?.params.threads ?? 0);
}

function tunedOf({ kernel, params }: ChosenStep): KernelParams {
  return Object.fromEntries((kernel.tunables ?? []).map(({ name }) => [name, params[name] as number]));
}
