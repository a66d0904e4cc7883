/**
 * Choices above a kernel: how many launches a decode step is, how a prompt is cut into steps, how many threads run them. Entries like those of kernels, so
 * that tuning, tables and the docs know one mechanism; the first of an op is the default. What is measured is a whole package (src/tune/local-steps.ts), what a
 * build makes of a row says src/passes/lower/select-steps.ts. None of them computes a node: they are in no table that kernels are chosen from.
 */

import { bug } from "../diagnostics.js";
import type { ArchLevel, Target } from "../toolchain/arch.js";
import { joinName } from "./common.js";
import { PERSISTENT_TOKENS, PERSISTENT_TUNABLES, persistentConstraint, persistentParams } from "./cuda/persistent.js";
import type { AnyKernel, Cost, KernelParams, Tunable } from "./kernel-def.js";

/** What is chosen about: a decode step, the steps of a prompt, all steps of a request. */
export const STEP_OPS = ["step_decode", "step_prefill", "step_request"] as const;
export type StepOp = (typeof STEP_OPS)[number];

export function isStepOp(op: string): op is StepOp {
  return (STEP_OPS as readonly string[]).includes(op);
}

/** Tokens of the prompt that choices are measured on. */
export const PROMPT_TOKENS = { step_prefill: { cpu: 1024, cuda: 8192 }, step_request: 256 } as const;

type StepDef = Pick<AnyKernel, "takes" | "constraint"> & {
  readonly op: StepOp;
  readonly target: Target;
  /** With the op the only one in the table; as the request says it, where it does. */
  readonly name: string;
  readonly tunables?: readonly Tunable[];
};

function defineStep({ op, target, name, tunables = [], ...rest }: StepDef): AnyKernel {
  const refuse = (): never => {
    throw bug(`${op} stands for no node`);
  };
  const file = ({ layers, hidden, experts }: KernelParams): string =>
    joinName(op, `l${layers}`, `w${hidden}`, experts === undefined ? undefined : `e${experts}`);
  // Its op is none of a graph's, as that of persistent_decode is none of a node's.
  return Object.freeze({
    op,
    target,
    name,
    tunables,
    order: "by-bucket",
    fit: refuse,
    args: refuse,
    view: refuse,
    cost: (params: KernelParams, rows: number) => stepCost(op, params, rows),
    file,
    ...rest,
  }) as unknown as AnyKernel;
}

const chunk = (values: readonly number[], standard: Tunable["default"]): Tunable => ({
  name: "chunk",
  summary: "prompt tokens in one step: more keep more of the device busy, and let other sequences wait longer",
  values: () => values,
  default: standard,
});

/** A GPU needs more rows at once to be busy, with experts more still, each of which gets a few of them. */
export function usualChunk(target: Target, experts: boolean): number {
  return target === "cpu" ? 512 : experts ? 8192 : 2048;
}

const threads: Tunable = {
  name: "threads",
  summary: "threads of the engine; 0: all cores that it may use",
  // Around what a memory needs to be busy, which is fewer than there are on most machines.
  values: ({ cores }) => [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128].filter((count) => count < Number(cores)),
  default: () => 0,
};

export const STEPS: readonly AnyKernel[] = [
  defineStep({ op: "step_decode", target: "cuda", name: "launches" }),
  defineStep({
    op: "step_decode",
    target: "cuda",
    name: "persistent",
    takes: (params, { rows, arch }) => isPersistent(params, rows, arch),
    tunables: PERSISTENT_TUNABLES,
    constraint: persistentConstraint,
  }),
  defineStep({
    op: "step_prefill",
    target: "cuda",
    name: "gpu_chunks",
    tunables: [chunk([512, 1024, 2048, 4096, 8192], ({ experts }) => usualChunk("cuda", experts !== undefined))],
  }),
  defineStep({
    op: "step_prefill",
    target: "cpu",
    name: "chunks",
    tunables: [chunk([128, 256, 512, 1024], () => usualChunk("cpu", false))],
  }),
  defineStep({ op: "step_request", target: "cpu", name: "threads", tunables: [threads] }),
];

/** Of dense models without biases, by sizes alone: whether the calls of a program are such a step is persist-decode's to find. */
function isPersistent(params: KernelParams, rows: number, arch: ArchLevel): boolean {
  if (arch !== "sm_90a" || rows > PERSISTENT_TOKENS || params.experts !== undefined || params.bias === true) return false;
  // What a step's problem leaves open: none of it changes whether there is room.
  const open = { group: 8, eps: 1e-5, scale: 1, theta: 1, block_size: 64, kv_block_bytes: 0 };
  const { layers, hidden, heads, kv_heads, head_dim, ffn, vocab } = params as { readonly [name: string]: number };
  const sizes = { layers, hidden, heads, kv_heads, head_dim, ffn, vocab, ...open } as Parameters<typeof persistentParams>[0];
  return typeof persistentParams(sizes, rows) !== "string";
}

/** Tokens that a request generates after its prompt, as runtime/tools/tune_step.mjs does. */
const REQUEST_STEPS = 32;

/** Of the weights alone, which is most of it: all are read once a step, and with few rows of experts the chosen ones. */
function stepCost(op: StepOp, params: KernelParams, rows: number): Cost {
  const {
    layers = 0,
    hidden = 0,
    heads = 0,
    kv_heads = 0,
    head_dim = 0,
    ffn = 0,
    vocab = 0,
  } = params as { readonly [name: string]: number };
  const { experts = 0, chosen = 0, expert_ffn = 0, shared_experts = 0, dense_layers = 0 } = params as { readonly [name: string]: number };
  const dense = experts > 0 ? dense_layers : layers;
  const attention = layers * hidden * head_dim * (2 * heads + 2 * kv_heads);
  const common = attention + 3 * hidden * ffn * dense + 3 * hidden * expert_ffn * shared_experts * (layers - dense);
  const expert = 3 * hidden * expert_ffn * (layers - dense);
  const head = hidden * vocab;
  const read = (tokens: number): number => common + expert * Math.min(experts, chosen * tokens) + head;
  const work = common + expert * chosen;
  if (op === "step_decode") return { bytes: 2 * read(rows), operations: 2 * rows * (work + head) };
  const steps = op === "step_request" ? REQUEST_STEPS : 0;
  return { bytes: 2 * (read(rows) + steps * read(1)), operations: 2 * (rows * work + head + steps * (work + head)) };
}
