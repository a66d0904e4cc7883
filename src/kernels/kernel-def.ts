/**
 * What a kernel is to the compiler: which op it computes, which nodes it fits, what makes its source, what it reads and costs. The kernels
 * themselves are headers in runtime/device; which ones there are is the table in table.ts.
 */

import { bug } from "../diagnostics.js";
import type { Node, NodeOf } from "../ir/graph.js";
import type { OpName } from "../ir/ops.js";
import { type Dim, DTYPES, type DType, type Layout, type TensorType, type Type } from "../ir/types.js";
import type { ArchLevel, Target } from "../toolchain/arch.js";
import type { CudaLaunch } from "./cuda-launch.js";
import type { View } from "./view.js";

/** What kernels depend on besides their node. */
export interface KernelTarget {
  readonly arch: ArchLevel;
  /** Tokens in a block of the KV pool, and bytes of all layers of one. */
  readonly kvBlockSize: number;
  readonly kvBlockBytes: number;
  /** Tokens of the longest sequence. */
  readonly maxContext: number;
  /** Whether kernels in Triton can be compiled. */
  readonly triton?: boolean;
}

/** How a weight lies in memory. */
export interface WeightFormat {
  readonly layout: Layout;
  readonly dtype: DType;
}

/** All that makes a kernel's source: two launches with equal parameters call one function. */
export type KernelParams = { readonly [name: string]: number | string | boolean };

/** Work of one launch, for choices and reports: bytes moved to or from memory, and multiply-adds counted as two operations. */
export interface Cost {
  readonly bytes: number;
  readonly operations: number;
}

/**
 * In which order sums are made. `exact`: no sum, or one whose order cannot matter. Otherwise the order's name: kernels of one name give equal
 * bits for equal rows, whatever the number of rows, sequences and threads. `by-bucket`: an order that nothing shares.
 */
export type ReductionOrder =
  | "exact"
  | "by-bucket"
  | "sequential-k"
  | "fixed-tiles"
  | "fixed-lanes"
  | "by-expert"
  | "wgmma-k"
  | "wgmma-tiles"
  | "sliced-k"
  | "triton-k";

/** A parameter that changes speed and nothing else; one that says so may change the order of sums, and with it the last bits. */
export interface Tunable {
  readonly name: string;
  /** Sums are made in another order with another value. */
  readonly reorders?: true;
  /** What it decides, for `tune list` and the docs. */
  readonly summary: string;
  readonly values: (params: KernelParams) => readonly number[];
  readonly default: (params: KernelParams) => number;
}

/** What a variant takes of a core, where it is known. */
export interface Footprint {
  /** Vector registers of the inner loop, where they are counted. */
  readonly registers?: number;
  /** Bytes that are read again and again, and should lie in the first cache; of a GPU, in the shared memory of a block. */
  readonly cacheBytes: number;
  /** Of a GPU: blocks or tiles in all, how many of them a multiprocessor has at once, and the operations of one where it makes them whatever rows there are. */
  readonly blocks?: number;
  readonly residents?: number;
  readonly blockOperations?: number;
  /** Of a CPU: of a core, for the columns of one panel. Rough: it is for comparing variants on one problem. */
  readonly cycles?: number;
  /** Bytes that a block reads of what others read too, and what it does one after the other: steps of the warp that has the most. */
  readonly commonBytes?: number;
  readonly steps?: number;
}

/** Where a kernel is to be fast: how many rows a launch brings, on which instruction set. */
export interface TuningPlace {
  readonly rows: number;
  readonly arch: ArchLevel;
}

export interface KernelDef<K extends OpName> {
  readonly op: K;
  readonly target: Target;
  /** Name of the variant, with the op the only one in the table; also of its template, unless that is given. */
  readonly name: string;
  /** Within templates/<target>. */
  readonly template?: string;
  /** What its template makes, if not C++ or CUDA. */
  readonly language?: "triton";
  /** It is no default for buckets of more rows, and no table's choice. */
  readonly mostRows?: number;
  /** Nor for buckets of fewer. */
  readonly leastRows?: number;
  /** The only programs that it computes right; without it all. */
  readonly programs?: readonly string[];
  readonly order: ReductionOrder;
  /** What it can read for each operand that is a weight, best first. */
  readonly weights?: { readonly [operand: string]: readonly WeightFormat[] };
  /** Share of a weight operand that `rows` rows read; an operand that is not named is read whole. */
  readonly share?: { readonly [operand: string]: (params: KernelParams, rows: number) => number };
  /** The parameters for a node, or why it does not fit. Weight operands are read by `weights`, not here. */
  readonly fit: (node: NodeOf<K>, target: KernelTarget) => KernelParams | string;
  /** Whether it computes a problem that another kernel of the op is the default for, and may be the faster one there; without it no. */
  readonly takes?: (params: KernelParams, place: TuningPlace) => boolean;
  readonly tunables?: readonly Tunable[];
  /**
   * Whether parameters with these tunables are worth a measurement there: not if they cannot be compiled, nor if they make the same
   * instructions run as others that are. The defaults always are.
   */
  readonly constraint?: (params: KernelParams, place: TuningPlace) => boolean;
  readonly footprint?: (params: KernelParams, place: TuningPlace) => Footprint;
  /** What a launch passes to it, in order. */
  readonly args: (params: KernelParams) => readonly Argument[];
  /** Results that may lie where an operand lay that nobody reads afterwards. */
  readonly inPlace?: { readonly [result: string]: string };
  /** Bytes of scratch in the arena for at most `rows` rows. */
  readonly workspace?: (params: KernelParams, rows: number) => number;
  /** More scratch, each part an argument of its own: its bytes for at most `rows` rows. */
  readonly parts?: (params: KernelParams, rows: number) => { readonly [argument: string]: number };
  readonly cost: (params: KernelParams, rows: number) => Cost;
  /** Base name of the generated file and of its function; how rows are counted is no part of it. */
  readonly file: (params: KernelParams) => string;
  /** Where one op takes several launches in a row; without it one, with all `args`. */
  readonly phases?: readonly Phase[];
  /** With `params.late` it lets later launches start only after its own wait for inputs (passes/lower/late-launches.ts). */
  readonly late?: boolean;
  /** Operands that it reads before its wait with `params.early`, which says that they are complete by then. */
  readonly early?: readonly string[];
  /** How a GPU launches it, or a phase of it: block, grid, shared memory. */
  readonly launch?: (params: KernelParams, phase: string) => CudaLaunch;
  /** What its template sees, besides `args` and `functions`. */
  readonly view: (params: KernelParams) => View;
}

export interface Phase {
  /** Of its function's name. */
  readonly suffix: string;
  /** Names of arguments, in order; those that a launch lacks are left out. */
  readonly args: readonly string[];
}

/** A generated file: one kernel, with a function for each way in which its rows are counted, so that it is compiled once. */
export interface UsedKernel {
  readonly name: string;
  readonly kernel: AnyKernel;
  /** Without `rows`. */
  readonly params: KernelParams;
  readonly functions: readonly KernelFunction[];
  /** Of all its functions, by program. */
  readonly launches: { readonly [program: string]: number };
}

export interface KernelFunction {
  readonly name: string;
  /** Which field of Step counts the rows; undefined where the kernel's own code says so. */
  readonly rows: Rows["step"] | undefined;
  readonly phase?: Phase;
}

export interface Argument {
  /** An operand or result of the op, `pieces.1` for one of many results, `workspace` or one of `parts`. */
  readonly name: string;
  /** Of what it points at, in C++. */
  readonly type: string;
}

export type AnyKernel = { [K in OpName]: KernelDef<K> }[OpName];

/** Keeps the op's own types inside a definition; of a kernel for the CPU. */
export function defineKernel<K extends OpName>(kernel: Omit<KernelDef<K>, "target" | "launch">): AnyKernel {
  return Object.freeze({ ...kernel, target: "cpu" }) as unknown as AnyKernel;
}

/** The parameters of `kernel` for a node of its op, or why it does not fit. */
export function fitKernel(kernel: AnyKernel, node: Node, target: KernelTarget): KernelParams | string {
  if (kernel.op !== node.op) throw bug(`kernel ${kernel.name} was asked about ${node.op}`);
  return (kernel.fit as (node: Node, target: KernelTarget) => KernelParams | string)(node, target);
}

export function tensorType(type: Type): TensorType {
  if (type.kind !== "tensor") throw bug("expected a tensor, found a kv cache");
  return type;
}

/** A fixed size of a type. */
export function sizeOf(type: Type, axis: number): number {
  const size = tensorType(type).shape.at(axis);
  if (typeof size !== "number") throw bug("expected a fixed size");
  return size;
}

/** The count of rows as the runtime gives it: a field of Step, times a constant. */
export interface Rows {
  readonly step: "tokens" | "sequences";
  readonly times: number;
}

export function rowsOf(dim: Dim | undefined): Rows | undefined {
  if (dim === undefined || typeof dim === "number" || dim.plus !== 0) return undefined;
  return dim.symbol === "T"
    ? { step: "tokens", times: dim.times }
    : dim.symbol === "S"
      ? { step: "sequences", times: dim.times }
      : undefined;
}

/** The functions of a kernel's file that a launch with these parameters calls, one after the other: `_last` is for the last row of each sequence. */
export function kernelFunctions(kernel: AnyKernel, params: KernelParams): readonly KernelFunction[] {
  const rows = params.rows === "tokens" || params.rows === "sequences" ? params.rows : undefined;
  const name = `${kernel.file(params)}${rows === "sequences" ? "_last" : ""}`;
  return kernel.phases?.map((phase) => ({ name: `${name}_${phase.suffix}`, rows, phase })) ?? [{ name, rows }];
}

/** What a function takes, in order. */
export function functionArgs(kernel: AnyKernel, params: KernelParams, phase: Phase | undefined): readonly Argument[] {
  const all = kernel.args(params);
  return phase === undefined ? all : phase.args.flatMap((name) => all.find((arg) => arg.name === name) ?? []);
}

export function bytesOf(dtype: DType): number {
  return DTYPES[dtype].bytes;
}

export function numberParam(params: KernelParams, name: string): number {
  const value = params[name];
  if (typeof value !== "number") throw bug(`kernel parameter ${name} is ${JSON.stringify(value)}, expected a number`);
  return value;
}

export function stringParam(params: KernelParams, name: string): string {
  const value = params[name];
  if (typeof value !== "string") throw bug(`kernel parameter ${name} is ${JSON.stringify(value)}, expected a string`);
  return value;
}

export function dtypeParam(params: KernelParams, name: string): DType {
  const value = stringParam(params, name);
  if (!Object.hasOwn(DTYPES, value)) throw bug(`kernel parameter ${name} is ${value}, expected an element type`);
  return value as DType;
}
