/** What the meaning of an op is to TypeScript: a function of operand values and attributes. The record of all of them is in ops.ts. */

import type { AttrsOf, OperandsOf } from "../ir/graph.js";
import type { OpName } from "../ir/ops.js";
import type { TensorType, Type } from "../ir/types.js";
import type { KvStore } from "./kv.js";
import type { RefTensor } from "./tensor.js";

export type RefValue = RefTensor | KvStore;

type RefOperand<Name, T> = T extends readonly unknown[]
  ? readonly RefTensor[]
  : T extends object
    ? Name extends "cache"
      ? KvStore
      : RefTensor
    : undefined;
/** Operands by name with values instead of types; an operand called `cache` is a cache, all others are tensors. */
export type RefOperands<K extends OpName> = { readonly [N in keyof OperandsOf<K>]: RefOperand<N, OperandsOf<K>[N]> };

export interface Environment {
  /** A tensor of the checkpoint, in the type that the graph states. */
  readonly weights: (name: string, type: TensorType) => RefTensor;
  /** Tokens in a block of the KV cache. */
  readonly blockSize: number;
}

/** Gives the results in order. `types` are those that the graph states, for ops whose results do not follow from the operands. */
export type Meaning<K extends OpName> = (
  operands: RefOperands<K>,
  attrs: AttrsOf<K>,
  environment: Environment,
  types: readonly Type[],
) => readonly RefValue[];

export type Meanings<K extends OpName> = { readonly [N in K]: Meaning<N> };
