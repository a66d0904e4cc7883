/**
 * The pack plan: which bytes of a checkpoint become which bytes of the packed weights file. Plain data, made by the
 * pass plan-weights, checked here and carried out by the native packer (runtime/pack, driven by packer.ts). Where an
 * element goes inside a weight is the layout's own header's business (runtime/device/layout).
 *
 * A packed weight is `slabs` matrices [N, K], one after the other (the experts of a layer, or one slab). N is the
 * output width of a linear layer and K its input width, whatever the orientation in the checkpoint. Rows come from
 * parts: one after the other (q, k and v), or two parts in turns of `interleave` rows (gate and up). A vector is
 * [N, 1], so that biases concatenate and interleave as the rows they belong to do.
 */

import { createHash } from "node:crypto";
import { bug } from "../diagnostics.js";
import type { Layout } from "../ir/types.js";
import type { Checkpoint, CheckpointTensor } from "./checkpoint.js";
import { layOutSafetensors, type SafetensorsLayout } from "./safetensors-write.js";
import { quoteName } from "./tensor-type.js";

export type PackDType = "bf16" | "f32";
export type PackSourceDType = "bf16" | "f16" | "f32";

/** Rows of a packed matrix, and the stored matrix that they come from. */
export interface PackPart {
  /** Into `PackPlan.files`. */
  readonly file: number;
  /** Of the stored matrix, in bytes from the start of the file. */
  readonly offset: number;
  readonly dtype: PackSourceDType;
  /** As stored: row-major [rows, cols]. */
  readonly rows: number;
  readonly cols: number;
  /** false: stored as [N, K]. true: stored as [K, N], as Paddle does, and packed rows are stored columns. */
  readonly transposed: boolean;
  /** The range of N that is taken. */
  readonly rowStart: number;
  readonly rowCount: number;
}

export interface PackedWeight {
  /** Names the weight in the file: an id that we made, never a name from a checkpoint. */
  readonly id: string;
  readonly dtype: PackDType;
  readonly layout: Layout;
  /** [slabs, N, K], before the layout's padding. */
  readonly shape: readonly [slabs: number, n: number, k: number];
  /** In bytes from the start of the data, a multiple of 256. */
  readonly offset: number;
  /** 0: the parts follow each other. g: exactly two parts of equal height take turns of g rows. */
  readonly interleave: number;
  /** The parts of each slab. */
  readonly slabs: readonly (readonly PackPart[])[];
}

export interface PackPlan {
  readonly files: readonly { readonly path: string; readonly bytes: number }[];
  /** In the order of their offsets. */
  readonly weights: readonly PackedWeight[];
  readonly dataBytes: number;
}

export const PACK_ALIGN = 256;
const DTYPE_BYTES = { bf16: 2, f16: 2, f32: 4 } as const satisfies Record<PackSourceDType, number>;
const FILE_DTYPE = { bf16: "BF16", f32: "F32" } as const satisfies Record<PackDType, string>;

/** [slabs, N, K] with the layout's padding: the same count of elements that the layout's header has. */
export function packedShape(layout: Layout, [slabs, n, k]: PackedWeight["shape"]): readonly [number, number, number] {
  return layout === "row" ? [slabs, n, k] : [slabs, Math.ceil(n / 16) * 16, Math.ceil(k / 2) * 2];
}

export function packedBytes({ layout, shape, dtype }: Pick<PackedWeight, "layout" | "shape" | "dtype">): number {
  return packedShape(layout, shape).reduce((product, size) => product * size, DTYPE_BYTES[dtype]);
}

/** Gives the weights their places in the order given. */
export function planPack(checkpoint: Pick<Checkpoint, "files">, weights: readonly Omit<PackedWeight, "offset">[]): PackPlan {
  let end = 0;
  const placed = weights.map((weight) => {
    const offset = Math.ceil(end / PACK_ALIGN) * PACK_ALIGN;
    end = offset + packedBytes(weight);
    return { ...weight, offset };
  });
  const plan = { files: checkpoint.files.map(({ path, bytes }) => ({ path, bytes })), weights: placed, dataBytes: end };
  checkPackPlan(plan);
  return plan;
}

export interface PartOptions {
  readonly transposed?: boolean;
  readonly rowStart?: number;
  /** All rows from `rowStart` on when left out. */
  readonly rowCount?: number;
  /** Of a tensor of three axes (stacked experts): which matrix of it. */
  readonly slab?: number;
}

/** A part from a tensor [rows, cols], from one matrix of a tensor [slabs, rows, cols], or from a vector [n], which is n rows of one. */
export function packPart(tensor: CheckpointTensor, { transposed = false, rowStart = 0, rowCount, slab = 0 }: PartOptions = {}): PackPart {
  const { shape } = tensor;
  if (shape.length < 1 || shape.length > 3) throw bug(`a tensor of ${shape.length} axes in the pack plan`, quoteName(tensor.name));
  const [rows = 0, cols = 1] = shape.length === 3 ? shape.slice(1) : shape;
  const dtype = packSourceDType(tensor);
  const offset = tensor.offset + slab * rows * cols * DTYPE_BYTES[dtype];
  return {
    file: tensor.file,
    offset,
    dtype,
    rows,
    cols,
    transposed,
    rowStart,
    rowCount: rowCount ?? (transposed ? cols : rows) - rowStart,
  };
}

/** A part that takes all of a tensor as one vector, whatever its shape: router biases are stored as [1, E]. */
export function packVector(tensor: CheckpointTensor): PackPart {
  const rows = tensor.shape.reduce((product, size) => product * size, 1);
  const dtype = packSourceDType(tensor);
  return { file: tensor.file, offset: tensor.offset, dtype, rows, cols: 1, transposed: false, rowStart: 0, rowCount: rows };
}

/** U16 is Paddle's name for the bits of a bf16. Other types are the frontend's to refuse, with a message about the model. */
export function packSourceDType({ name, dtype }: Pick<CheckpointTensor, "name" | "dtype">): PackSourceDType {
  switch (dtype) {
    case "BF16":
    case "U16":
      return "bf16";
    case "F16":
      return "f16";
    case "F32":
      return "f32";
    default:
      throw bug(`a tensor of type ${dtype} in the pack plan`, quoteName(name));
  }
}

/** Plans are ours: whatever is wrong with one is a bug, not the user's input. The packer checks the ranges again, against the files. */
export function checkPackPlan(plan: PackPlan): void {
  const ids = new Set<string>();
  let end = 0;
  for (const weight of plan.weights) {
    const refuse = (message: string) => bug(`pack plan: ${message}`, weight.id);
    const [slabs, n, k] = weight.shape;
    if (!/^[\w.-]+$/.test(weight.id) || ids.has(weight.id)) throw refuse("an id that is taken or not plain");
    ids.add(weight.id);
    if (![slabs, n, k].every((size) => Number.isSafeInteger(size) && size > 0)) throw refuse(`shape [${weight.shape.join(", ")}]`);
    if (weight.offset % PACK_ALIGN !== 0 || weight.offset < end) throw refuse(`offset ${weight.offset} after ${end}`);
    end = weight.offset + packedBytes(weight);
    if (weight.slabs.length !== slabs) throw refuse(`${weight.slabs.length} lists of parts for ${slabs} slabs`);
    for (const parts of weight.slabs) {
      for (const part of parts) checkPart(part, k, plan, refuse);
      const rows = parts.reduce((sum, { rowCount }) => sum + rowCount, 0);
      if (rows !== n) throw refuse(`parts with ${rows} rows for N = ${n}`);
      if (weight.interleave === 0) continue;
      const [first, second] = parts;
      if (parts.length !== 2 || first?.rowCount !== second?.rowCount) throw refuse("interleaved parts that are not two of equal height");
      if (!Number.isInteger(n / 2 / weight.interleave)) throw refuse(`groups of ${weight.interleave} that do not divide ${n / 2}`);
    }
  }
  if (plan.dataBytes !== end || !Number.isSafeInteger(end))
    throw bug(`pack plan: ${plan.dataBytes} bytes of data, where the weights end at ${end}`);
}

function checkPart(part: PackPart, k: number, { files }: PackPlan, refuse: (message: string) => Error): void {
  const [sourceN, sourceK] = part.transposed ? [part.cols, part.rows] : [part.rows, part.cols];
  if (sourceK !== k) throw refuse(`a part of width ${sourceK} for K = ${k}`);
  const { rowStart, rowCount } = part;
  if (!(rowStart >= 0 && rowCount > 0 && rowStart + rowCount <= sourceN)) throw refuse(`rows ${rowStart} + ${rowCount} of ${sourceN}`);
  const file = files[part.file];
  if (!file || part.offset < 0 || part.offset + part.rows * part.cols * DTYPE_BYTES[part.dtype] > file.bytes)
    throw refuse("a part outside its file");
}

export interface PackedHead extends SafetensorsLayout {
  /** Hex, of `head`: the loader checks it, and the manifest holds it. */
  readonly sha256: string;
}

/**
 * The start of the packed file, which is a safetensors file like any other: an entry per weight with its padded shape,
 * the data at a multiple of 256, and `__pad.<n>` entries where the layout of a weight ends elsewhere. Metadata holds
 * what binds the file to its build.
 */
export function layOutPackedHead(plan: PackPlan, metadata: Readonly<Record<string, string>>): PackedHead {
  const specs = plan.weights.map(({ id, dtype, layout, shape }) => ({
    name: id,
    dtype: FILE_DTYPE[dtype],
    shape: packedShape(layout, shape),
  }));
  const layout = layOutSafetensors(specs, { order: "given", align: PACK_ALIGN, metadata });
  const offsets = new Map(layout.entries.map(({ name, offset }) => [name, offset - layout.head.length]));
  for (const { id, offset } of plan.weights) {
    if (offsets.get(id) !== offset) throw bug(`pack plan: offset ${offset}, where the header has ${offsets.get(id)}`, id);
  }
  return { ...layout, sha256: createHash("sha256").update(layout.head).digest("hex") };
}

/** The text that `ern-pack` reads (runtime/pack/plan.hpp). The packer writes the head as it is given. */
export function serializePackPlan(plan: PackPlan, { head }: Pick<PackedHead, "head">): string {
  const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(head.subarray(8));
  return JSON.stringify({ format: "ern-pack-1", head: text, dataBytes: plan.dataBytes, files: plan.files, weights: plan.weights });
}
