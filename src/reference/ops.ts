/** The meaning of every op, in one record: an op that lacks one is a type error here. */

import { bug } from "../diagnostics.js";
import { isOpName, type OpName, opDef } from "../ir/ops.js";
import type { Type } from "../ir/types.js";
import { attentionMeanings } from "./attention.js";
import type { Environment, Meaning, RefValue } from "./meaning.js";
import { moeMeanings } from "./moe.js";
import { rowMeanings } from "./rows.js";
import { weightMeanings } from "./weights.js";

export const MEANINGS: { readonly [K in OpName]: Meaning<K> } = {
  ...weightMeanings,
  ...rowMeanings,
  ...attentionMeanings,
  ...moeMeanings,

  // There is one device here.
  all_reduce: ({ x }) => [x],
  all_gather: ({ x }) => [x],

  launch: ({ args }, { op, present, op_attrs }, environment, types) => {
    if (!isOpName(op)) throw bug(`there is no op "${op}" to launch`);
    const left: RefValue[] = [...args];
    const operands: { [name: string]: RefValue | readonly RefValue[] } = {};
    for (const [i, name] of opDef(op).operands.entries()) {
      if (present[i] !== 1) continue;
      const entry = name.endsWith("*") ? left.splice(0) : left.shift();
      if (entry !== undefined) operands[name.replace(/[?*]$/, "")] = entry;
    }
    return applyOp(op, operands, op_attrs, environment, types);
  },

  buffer: () => placeless("buffer"),
  call: () => placeless("call"),
};

function placeless(op: string): never {
  throw bug(`${op} names memory and machine code; the reference runs graphs up to the level kernel`);
}

export type LooseRefOperands = { readonly [name: string]: RefValue | readonly RefValue[] | undefined };

/** Runs one op on operands by name, for code that handles any op. The verifier has made sure that they fit. */
export function applyOp(
  op: OpName,
  operands: LooseRefOperands,
  attrs: object,
  environment: Environment,
  types: readonly Type[],
): readonly RefValue[] {
  const meaning = MEANINGS[op] as (
    operands: LooseRefOperands,
    attrs: object,
    environment: Environment,
    types: readonly Type[],
  ) => readonly RefValue[];
  return meaning(operands, attrs, environment, types);
}
