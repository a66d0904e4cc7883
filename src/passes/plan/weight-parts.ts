/**
 * Weight expressions as the packer needs them: for each matrix of a packed weight, which rows of which stored tensors it takes. Joins, slices and
 * transposes of weights thereby cost nothing at run time and no copy at compile time.
 */

import { bug } from "../../diagnostics.js";
import type { NodeOf, Value } from "../../ir/graph.js";
import { rowAxis } from "../../ir/ops.js";
import type { TensorType } from "../../ir/types.js";
import { sizeOf } from "../../kernels/kernel-def.js";
import type { WeightKeys } from "../lower/weight-keys.js";

/** Rows of one matrix of a tensor of the checkpoint. */
export interface PartSource {
  readonly tensor: string;
  /** Which matrix of a tensor of three axes. */
  readonly slab: number;
  /** Stored as [in, out]: packed rows are stored columns. */
  readonly transposed: boolean;
  /** Taken as one vector, whatever its shape in the file. */
  readonly vector: boolean;
  readonly rowStart: number;
  readonly rowCount: number;
}

export interface WeightParts {
  readonly slabs: readonly (readonly PartSource[])[];
  /** 0, or the rows that two parts take turns in. */
  readonly interleave: number;
}

export function weightParts(value: Value, keys: WeightKeys): WeightParts {
  const node = keys.producer(value);
  const of = (operand: Value): WeightParts => weightParts(operand, keys);
  switch (node.op) {
    case "weight":
      return tensorParts(node);
    case "pack":
      return of(node.operands.x);
    case "transpose":
      return each(of(node.operands.x), (parts) => parts.map((part) => transposed(part, value.type as TensorType)));
    case "slice_rows":
      return each(of(node.operands.x), (parts) => sliceRows(parts, node.attrs.start, node.attrs.length));
    case "concat_rows":
      return joinSlabs(node.operands.parts.map(of), 0);
    case "interleave_rows":
      return joinSlabs([of(node.operands.a), of(node.operands.b)], node.attrs.group);
    case "stack": {
      const parts = node.operands.parts.map(of);
      const interleave = parts[0]?.interleave ?? 0;
      if (parts.some((part) => part.interleave !== interleave)) throw bug("a stack of weights that are interleaved in different ways");
      return { slabs: parts.flatMap(({ slabs }) => slabs), interleave };
    }
    default:
      throw bug(`${node.op} makes no weight that the packer knows`);
  }
}

function tensorParts(node: NodeOf<"weight">): WeightParts {
  const { type } = node.results[0] as Value;
  const rank = (type as TensorType).shape.length;
  const rowCount = sizeOf(type, rowAxis(type as TensorType));
  const part = { tensor: node.attrs.name, slab: 0, transposed: false, vector: rank === 1, rowStart: 0, rowCount };
  if (rank <= 2) return { slabs: [[part]], interleave: 0 };
  return { slabs: Array.from({ length: sizeOf(type, 0) }, (_, slab) => [{ ...part, slab }]), interleave: 0 };
}

function each({ slabs, interleave }: WeightParts, change: (parts: readonly PartSource[]) => readonly PartSource[]): WeightParts {
  if (interleave !== 0) throw bug("rows of an interleaved weight are taken apart");
  return { slabs: slabs.map(change), interleave };
}

function transposed(part: PartSource, type: TensorType): PartSource {
  if (part.rowStart !== 0 || part.transposed) throw bug("a transpose of something else than a stored tensor");
  return { ...part, transposed: true, rowCount: sizeOf(type, rowAxis(type)) };
}

function sliceRows(parts: readonly PartSource[], start: number, length: number): readonly PartSource[] {
  const taken: PartSource[] = [];
  let row = 0;
  for (const part of parts) {
    const first = Math.max(start, row);
    const end = Math.min(start + length, row + part.rowCount);
    if (first < end) taken.push({ ...part, rowStart: part.rowStart + first - row, rowCount: end - first });
    row += part.rowCount;
  }
  return taken;
}

/** Slab by slab, the parts of one after those of the other. */
function joinSlabs(joined: readonly WeightParts[], interleave: number): WeightParts {
  const count = joined[0]?.slabs.length ?? 0;
  if (joined.some((weight) => weight.interleave !== 0 || weight.slabs.length !== count)) throw bug("weights that don't join row by row");
  const slabs = Array.from({ length: count }, (_, slab) => joined.flatMap((weight) => weight.slabs[slab] as readonly PartSource[]));
  if (interleave !== 0 && slabs.some((parts) => parts.length !== 2)) throw bug("interleaved weights that are made of several parts");
  return { slabs, interleave };
}
