/**
 * How kernels for GPUs are entered in the table. Which nodes an op's kernels fit, their arguments and costs are the same as on the CPU, so an entry
 * starts from the CPU's and says what differs: weights lie row by row, and a launch has a block, a grid and shared memory.
 */

import { bug } from "../../diagnostics.js";
import type { OpName } from "../../ir/ops.js";
import type { CudaArch } from "../../toolchain/arch.js";
import { joinName } from "../common.js";
import { CPU_KERNELS } from "../cpu-table.js";
import type { CudaLaunch } from "../cuda-launch.js";
import type {
  AnyKernel,
  Argument,
  KernelDef,
  KernelParams,
  Phase,
  ReductionOrder,
  Tunable,
  TuningPlace,
  WeightFormat,
} from "../kernel-def.js";
import type { View } from "../view.js";

/** One layout serves every kernel: rows as they are. Tensor cores and the tensor memory accelerator both read it. */
export const BF16_ROWS: readonly WeightFormat[] = [{ layout: "row", dtype: "bf16" }];
export const F32_ROWS: readonly WeightFormat[] = [{ layout: "row", dtype: "f32" }];

/** An entry; `fit`, `cost` and `file` are the CPU's where they are left out. */
export interface CudaEntry<K extends OpName = OpName> {
  /** Name of its template and, with `cuda_` before it, of the variant. */
  readonly name: string;
  readonly template?: string;
  readonly language?: "triton";
  /** Tells the files of variants of one op apart. */
  readonly suffix?: string;
  readonly mostRows?: number;
  readonly leastRows?: number;
  readonly programs?: readonly string[];
  readonly order?: ReductionOrder;
  readonly fit?: KernelDef<K>["fit"];
  readonly cost?: KernelDef<K>["cost"];
  readonly file?: (params: KernelParams) => string;
  readonly weights?: { readonly [operand: string]: readonly WeightFormat[] };
  /** Why it does not take these parameters, if so. */
  readonly refuse?: (params: KernelParams) => string | undefined;
  readonly tunables?: readonly Tunable[];
  readonly constraint?: KernelDef<K>["constraint"];
  readonly footprint?: KernelDef<K>["footprint"];
  /** The only arch that it compiles for. */
  readonly only?: CudaArch;
  /** Rows for which it is worth a measurement where another kernel is the default. */
  readonly worth?: { readonly least: number; readonly most?: number };
  /** The CPU's where it is left out. */
  readonly share?: KernelDef<K>["share"];
  readonly workspace?: (params: KernelParams, rows: number) => number;
  readonly parts?: KernelDef<K>["parts"];
  readonly args?: (params: KernelParams) => readonly Argument[];
  readonly phases?: readonly Phase[];
  readonly late?: boolean;
  readonly early?: readonly string[];
  readonly inPlace?: KernelDef<K>["inPlace"];
  readonly launch: (params: KernelParams, phase: string) => CudaLaunch;
  readonly view: (params: KernelParams) => View;
}

/** Shared memory of a block before Hopper, less what is not dynamic: tilings that are made for more have smaller rings there. */
const SM_80_SHARED_KIB = 156;

/** Element types as device/cuda/kernel.cuh names them. */
export function cudaType(type: string): string {
  return type.replace("cpu::Bf16", "Bf16");
}

export function defineCuda<K extends OpName>(op: K, entry: CudaEntry<K>): AnyKernel {
  const base = CPU_KERNELS.find((kernel) => kernel.op === op) as unknown as KernelDef<K> | undefined;
  const { name, suffix, refuse, launch, template = name, view } = entry;
  const { fit, cost, file, args, order, share, inPlace } = { ...base, ...entry };
  if (!fit || !cost || !file || !args || !order) throw bug(`the entry of ${name} lacks what the CPU has no kernel for`);
  const {
    language,
    tunables,
    constraint,
    footprint,
    only,
    worth,
    phases,
    workspace,
    parts,
    weights,
    programs,
    mostRows,
    leastRows,
    late,
    early,
  } = entry;
  const kernel: KernelDef<K> = {
    op,
    target: "cuda",
    name: `cuda_${joinName(name, suffix)}`,
    template,
    order,
    ...(share ? { share } : {}),
    ...(inPlace ? { inPlace } : {}),
    ...(language ? { language } : {}),
    ...(tunables ? { tunables } : {}),
    ...(constraint ? { constraint } : {}),
    ...(footprint ? { footprint } : {}),
    ...(phases ? { phases } : {}),
    ...(workspace ? { workspace } : {}),
    ...(parts ? { parts } : {}),
    ...(weights ? { weights } : {}),
    ...(programs ? { programs } : {}),
    ...(mostRows === undefined ? {} : { mostRows }),
    ...(worth
      ? {
          takes: (params: KernelParams, { rows, arch }: TuningPlace) =>
            rows >= worth.least &&
            rows <= Math.min(worth.most ?? rows, mostRows ?? rows) &&
            (only === undefined || only === arch) &&
            refuse?.(params) === undefined,
        }
      : {}),
    ...(leastRows === undefined ? {} : { leastRows }),
    ...(late ? { late } : {}),
    ...(early ? { early } : {}),
    fit: (node, target) => {
      if (only !== undefined && target.arch !== only) return `needs ${only}, not ${target.arch}`;
      const fitted = fit(node, target);
      if (typeof fitted === "string") return fitted;
      const params = target.arch === "sm_80" ? { ...fitted, shared_kib: SM_80_SHARED_KIB } : fitted;
      return refuse?.(params) ?? params;
    },
    args: (params) => args(params).map((arg) => ({ ...arg, type: cudaType(arg.type) })),
    cost,
    file: (params) => joinName(file(params), suffix, params.late === true && "late", params.early === true && "early"),
    launch,
    view,
  };
  return Object.freeze(kernel) as unknown as AnyKernel;
}

export function ceilDiv(a: number, b: number): number {
  return Math.ceil(a / b);
}
