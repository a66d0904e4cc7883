/**
 * A whole decode step of a dense model in one launch: runtime/device/cuda/persistent_decode.cuh. It computes no op of a graph but all calls of a program,
 * so it is in no table; persist-decode puts it into programs.
 */

import { bug } from "../../diagnostics.js";
import { cFloat, joinName } from "../common.js";
import { ONE } from "../cuda-launch.js";
import { type AnyKernel, type Argument, type KernelDef, type KernelParams, numberParam, type Tunable } from "../kernel-def.js";

/** Most sequences of a step that it is for. */
export const PERSISTENT_TOKENS = 8;
const ROWS = 8;
const WARPS = 8;
const FINISHERS = 3;
/** What a block may have. */
const SHARED_BYTES = 227 * 1024;
/** Pointers that the runtime passes to one launch at most (plan_check.cpp). */
const MOST_ARGUMENTS = 511;

/** In the order of PersistentArguments, which are pointers and nothing else. */
export const STEP_ARGUMENTS = [
  { name: "ids", type: "const int32_t" },
  { name: "positions", type: "const int32_t" },
  { name: "slots", type: "const int32_t" },
  { name: "block_table", type: "const int32_t" },
  { name: "context", type: "const int32_t" },
  { name: "logits", type: "float" },
  { name: "next", type: "int32_t" },
  { name: "embedding", type: "const Bf16" },
  { name: "norm", type: "const Bf16" },
  { name: "head", type: "const Bf16" },
] as const;
/** In the order of PersistentLayer. */
export const LAYER_ARGUMENTS = [
  { name: "attention_norm", type: "const Bf16" },
  { name: "qkv", type: "const Bf16" },
  { name: "o", type: "const Bf16" },
  { name: "ffn_norm", type: "const Bf16" },
  { name: "up", type: "const Bf16" },
  { name: "down", type: "const Bf16" },
  { name: "kv", type: "Bf16" },
] as const;
export type StepArgument = (typeof STEP_ARGUMENTS)[number]["name"];
export type LayerArgument = (typeof LAYER_ARGUMENTS)[number]["name"];

/** Sizes of a dense model's step, as persist-decode finds them. */
export interface PersistentSizes {
  readonly layers: number;
  readonly hidden: number;
  readonly heads: number;
  readonly kv_heads: number;
  readonly head_dim: number;
  readonly ffn: number;
  readonly vocab: number;
  readonly group: number;
  readonly eps: number;
  readonly scale: number;
  readonly theta: number;
  readonly block_size: number;
  readonly kv_block_bytes: number;
}

/**
 * Measured on an H100 at 132 multiprocessors, context 128 (bench/NOTES-cuda-persistent.md). `pace`: clocks between two copies of a block. Activations travel
 * through the same L2 as the weights, and arrive late where more copies are under way than the memory can serve.
 */
const PACE: { readonly [tokens: number]: number } = { 1: 1160, 2: 1200, 4: 1350, 8: 1650 };

const FEWEST_STAGES = 6;

/**
 * Of a step's problem (src/kernels/steps.ts). `whole_context` is none of them: it decides about contexts longer than those that steps are measured with.
 */
export const PERSISTENT_TUNABLES: readonly Tunable[] = [
  {
    name: "pace",
    summary: "clocks between two copies of a block",
    values: () => [0, 900, 1000, 1080, 1160, 1200, 1280, 1350, 1500, 1650, 1800, 2000],
    default: (params) => PACE[numberParam(params, "sequences")] ?? 0,
  },
  {
    name: "under_way",
    summary: "copies of a block that are under way at a time",
    values: () => [1, 2, 3, 4],
    default: () => UNDER_WAY,
  },
  {
    name: "head_under_way",
    summary: "the same in the head, where no activations travel",
    values: () => [2, 4, 6, 8],
    default: () => HEAD_UNDER_WAY,
  },
  {
    name: "stages",
    summary: "of the ring that copies fill",
    values: (params) => {
      const most = stagesFor(sizesOf(params), numberParam(params, "sequences"));
      return Array.from({ length: Math.max(0, most - FEWEST_STAGES) + 1 }, (_, i) => most - i).filter((_, i) => i % 2 === 0);
    },
    default: (params) => stagesFor(sizesOf(params), numberParam(params, "sequences")),
  },
];
const UNDER_WAY = 2;
const HEAD_UNDER_WAY = 4;

/** No more can be under way than there are stages. */
export function persistentConstraint(params: KernelParams): boolean {
  const [underWay, inHead, stages] = ["under_way", "head_under_way", "stages"].map((name) => numberParam(params, name)) as [
    number,
    number,
    number,
  ];
  return underWay < stages && inHead < stages;
}

/** The kernel's parameters, with these values of tunables; or why the step does not fit it. What is asked here is what the header asserts. */
export function persistentParams(sizes: PersistentSizes, tokens: number, tuned: KernelParams = {}): KernelParams | string {
  const { hidden, heads, kv_heads, head_dim, ffn, vocab, group, block_size } = sizes;
  const blocks = hidden / ROWS;
  const pace = PACE[tokens];
  if (pace === undefined) return `buckets of ${tokens} sequences`;
  if (hidden % 512 !== 0 || (heads * head_dim) % hidden !== 0 || ffn % hidden !== 0) return "widths that are no multiples of one another";
  if (blocks > 132 || tokens * heads > blocks) return `${blocks} blocks`;
  if (head_dim !== 128 || heads % kv_heads !== 0 || heads / kv_heads > 8) return `${heads} heads of ${head_dim} on ${kv_heads}`;
  if (vocab % ROWS !== 0 || group % ROWS !== 0 || ffn % group !== 0 || block_size % 16 !== 0) return "rows in other groups than of 8";
  if (persistentArguments(sizes.layers).length > MOST_ARGUMENTS) return `${sizes.layers} layers`;
  const stages = stagesFor(sizes, tokens);
  if (stages < FEWEST_STAGES) return "rows too long for its ring";
  const fixed = { under_way: UNDER_WAY, head_under_way: HEAD_UNDER_WAY, whole_context: 256, copies: 1 };
  return { ...sizes, tokens, blocks, stages, pace, ...fixed, ...tuned };
}

function stageBytes({ hidden }: { readonly hidden: number }): number {
  return ROWS * hidden * 2;
}

/** What of shared memory is not the ring: a chunk of the cache, and `Persistent::Shared`, whose size the template compares. */
function restBytes({ hidden, heads, kv_heads, head_dim, ffn }: PersistentSizes, tokens: number, stages: number): number {
  const chunk = 16 * WARPS;
  const most = (rows: number): number => Math.ceil(rows / ROWS / (hidden / ROWS));
  const rows = 16 * Math.max(Math.ceil(most((heads + 2 * kv_heads) * head_dim) / 2), most(ffn));
  const barriers = 8 * (2 * stages + 4);
  const sums = 4 * 2 * WARPS * tokens * (rows + 1);
  const softmax = 4 * 2 * WARPS * 8;
  const queries = 2 * 8 * (head_dim + 32);
  const probabilities = 4 * WARPS * 2 * 32;
  const best = 8 * tokens * 16;
  const slots = 4 * 128;
  const shared = alignUp(barriers + sums + softmax, 16) + queries + probabilities + best + slots;
  return 2 * chunk * head_dim * 2 + alignUp(shared, 16);
}

function alignUp(bytes: number, to: number): number {
  return Math.ceil(bytes / to) * to;
}

function stagesFor(sizes: PersistentSizes, tokens: number): number {
  for (let stages = 16; stages > 0; stages--)
    if (stages * stageBytes(sizes) + restBytes(sizes, tokens, stages) <= SHARED_BYTES) return stages;
  return 0;
}

function sizesOf(params: KernelParams): PersistentSizes {
  return params as unknown as PersistentSizes;
}

function sharedBytes(params: KernelParams): number {
  const stages = numberParam(params, "stages");
  return stages * stageBytes(sizesOf(params)) + restBytes(sizesOf(params), numberParam(params, "tokens"), stages);
}

export function persistentArguments(layers: number): readonly Argument[] {
  const of = (layer: number) => LAYER_ARGUMENTS.map(({ name, type }) => ({ name: `${name}.${layer}`, type }));
  return [...STEP_ARGUMENTS, ...Array.from({ length: layers }, (_, layer) => of(layer)).flat()];
}

const definition: KernelDef<"call"> = {
  op: "call",
  target: "cuda",
  name: "cuda_persistent_decode",
  template: "persistent_decode",
  order: "sequential-k",
  programs: ["decode"],
  fit: () => {
    throw bug("persistent_decode stands for no node");
  },
  args: (params) => persistentArguments(numberParam(params, "layers")),
  cost: () => ({ bytes: 0, operations: 0 }),
  file: (params) => joinName("persistent_decode", `l${params.layers}`, `w${params.hidden}`, `f${params.ffn}`, `s${params.tokens}`),
  launch: (params) => ({
    threads: 32 * (WARPS + FINISHERS + 1),
    grid: [{ constant: numberParam(params, "blocks") }, ONE, ONE],
    sharedBytes: sharedBytes(params),
    resident: numberParam(params, "blocks"),
  }),
  view: (params) => {
    const { eps, scale, theta, ...numbers } = params as { readonly [name: string]: number };
    return {
      ...numbers,
      eps: cFloat(eps as number),
      scale: cFloat(scale as number),
      theta: cFloat(theta as number),
      shared_bytes: sharedBytes(params),
    };
  },
};
export const PERSISTENT_DECODE = Object.freeze(definition) as unknown as AnyKernel;
