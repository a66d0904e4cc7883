/**
 * Gives every value of a program a place and turns launches into calls on buffers.
 *
 *   arena    results and scratch of launches. A buffer lives from the launch that writes it to the last that reads it; what does not live at the
 *            same time shares memory, and a kernel that says so writes over an operand that nobody reads any more.
 *   inputs   the step's inputs, one after the other, in the order of the parameters, which stay in the graph as their list.
 *   kv       the place of a layer's keys and values in block 0 of the pool; a state of the cache is the same memory as the state before.
 *
 * Weights have their places already (plan-weights). The runtime's side of this is runtime/src/plan.hpp.
 */

import { bug } from "../../diagnostics.js";
import { type Graph, type NodeOf, operandValues, type Value } from "../../ir/graph.js";
import { isOpName, opDef } from "../../ir/ops.js";
import { DTYPES, type KvType, type Type, tensor } from "../../ir/types.js";
import { functionArgs, type KernelFunction, type KernelParams, kernelFunctions } from "../../kernels/kernel-def.js";
import { kernelByName } from "../../kernels/table.js";
import { copyGraph } from "../lower/copy-graph.js";
import { launchRows } from "../lower/cost.js";
import { namedOperands } from "../lower/launches.js";
import { definePass, type GraphPass } from "../pass.js";
import { alignUp, BUFFER_ALIGN, type Lifetime, placeBuffers } from "./place-buffers.js";
import { type InputPlace, placeInputs, tensorBytes } from "./step-inputs.js";

export interface MemoryOptions {
  /** Tokens in a block of the KV pool. */
  readonly kvBlockSize: number;
}

export function planMemory(options: MemoryOptions): GraphPass {
  return definePass({ name: "plan-memory", needs: "plan", leaves: "plan", run: (graph) => run(graph, options) });
}

/** Bytes of one layer's keys and values in one block of the pool. */
export function kvLayerBytes({ heads, headDim, dtype }: KvType, blockSize: number): number {
  return alignUp(2 * heads * headDim * blockSize * DTYPES[dtype].bytes, BUFFER_ALIGN);
}

interface Place {
  readonly space: "arena" | "inputs" | "kv";
  readonly offset: number;
  readonly bytes: number;
  readonly type: Type;
}

function run(graph: Graph, { kvBlockSize }: MemoryOptions): Graph {
  if (!graph.nodes.some(({ op }) => op === "launch")) return graph;
  const parts: ScratchParts = new Map();
  const places = new Map<Value, Place>([...placeParams(graph, kvBlockSize), ...placeArena(graph, parts)]);
  const scratch = places as ReadonlyMap<unknown, Place>;
  const buffers = new Map<unknown, Value>();
  const planned = copyGraph({ ...graph, returns: [] }, (node, { build, keep, value }) => {
    if (node.op !== "launch") return keep(node);
    const bufferOf = (key: unknown): Value => {
      const known = buffers.get(key);
      if (known) return known;
      const place = scratch.get(key);
      if (!place) return value(key as Value);
      const { space, offset, bytes, type } = place;
      const made = build.nodeUnchecked("buffer", {}, { space, offset, bytes }, [type], node.origin).results[0] as Value;
      buffers.set(key, made);
      return made;
    };
    for (const called of kernelFunctions(kernelByName(node.attrs.op, node.attrs.kernel), node.attrs.params as KernelParams)) {
      const args = callArguments(node, called, parts).map(bufferOf);
      build.nodeUnchecked("call", { args }, { kernel: called.name }, [], node.origin);
    }
    return null;
  });
  // Results are named by the buffers that hold them; the cache is the runtime's own.
  const returns = graph.returns
    .filter(({ value }) => value.type.kind === "tensor")
    .map(({ name, value }) => ({ name, value: buffers.get(value) as Value }));
  return Object.freeze({ ...planned, returns: Object.freeze(returns) });
}

/** What stands for each part of a launch's scratch where places are looked up. */
type ScratchParts = Map<NodeOf<"launch">, Map<string, object>>;

/** What a launch passes to a function of its kernel, in order; its workspace is named by the node itself. */
function callArguments(node: NodeOf<"launch">, { phase }: KernelFunction, parts: ScratchParts): readonly unknown[] {
  const { op, kernel: name, params } = node.attrs;
  const values = new Map<string, unknown>([["workspace", node], ...(parts.get(node) ?? []), ...namedOperands(node)]);
  const names = isOpName(op) ? opDef(op).results : [];
  for (const [i, result] of node.results.entries()) {
    const many = names.find((entry) => entry.endsWith("*"));
    values.set(many ? `${many.slice(0, -1)}.${i}` : (names[i] as string), result);
  }
  return functionArgs(kernelByName(op, name), params as KernelParams, phase).map((arg) => {
    const value = values.get(arg.name);
    if (value === undefined) throw bug(`${name} takes ${arg.name}, which its launch lacks`);
    return value;
  });
}

function placeParams(graph: Graph, kvBlockSize: number): Map<Value, Place> {
  const places = new Map<Value, Place>();
  const inputs = new Map(placeInputs(graph.params, graph.bounds).places.map((place) => [place.name, place]));
  let kv = 0;
  for (const { name, value } of graph.params) {
    if (value.type.kind === "kv") {
      const bytes = kvLayerBytes(value.type, kvBlockSize);
      places.set(value, { space: "kv", offset: kv, bytes, type: tensor("u8", [bytes]) });
      kv += bytes;
    } else {
      const { offset, bytes } = inputs.get(name) as InputPlace;
      places.set(value, { space: "inputs", offset, bytes, type: value.type });
    }
  }
  // Each later state of a cache lies where the first does.
  for (const node of graph.nodes) {
    for (const result of node.results) {
      if (result.type.kind !== "kv") continue;
      const before = operandValues(node).find((value) => value.type.kind === "kv");
      places.set(result, places.get(before as Value) as Place);
    }
  }
  return places;
}

/** Offsets for results and scratch; `parts` is filled. */
function placeArena(graph: Graph, parts: ScratchParts): Map<Value, Place> {
  const last = graph.nodes.length;
  const lastRead = new Map<Value, number>();
  for (const [i, node] of graph.nodes.entries()) for (const value of operandValues(node)) lastRead.set(value, i);
  for (const { value } of graph.returns) lastRead.set(value, last);

  const lifetimes: { bytes: number; first: number; last: number }[] = [];
  const owners: { key: unknown; type: Type; lifetime: number }[] = [];
  const lifetimeOf = new Map<Value, number>();
  for (const [i, node] of graph.nodes.entries()) {
    if (node.op !== "launch") continue;
    const kernel = kernelByName(node.attrs.op, node.attrs.kernel);
    const [params, rows] = [node.attrs.params as KernelParams, launchRows(node, graph)];
    const addScratch = (key: unknown, bytes: number): void => {
      owners.push({ key, type: tensor("u8", [bytes]), lifetime: lifetimes.length });
      lifetimes.push({ bytes, first: i, last: i });
    };
    const scratch = kernel.workspace?.(params, rows) ?? 0;
    if (scratch > 0) addScratch(node, scratch);
    const keys = new Map(Object.entries(kernel.parts?.(params, rows) ?? {}).map(([name, bytes]) => [name, { bytes }]));
    for (const key of keys.values()) addScratch(key, key.bytes);
    if (keys.size > 0) parts.set(node, keys);
    const results = isOpName(node.attrs.op) ? opDef(node.attrs.op).results : [];
    for (const [r, result] of node.results.entries()) {
      if (result.type.kind === "kv") continue;
      const bytes = tensorBytes(result.type, graph.bounds);
      const end = lastRead.get(result) ?? i;
      const over: Value | undefined = namedOperands(node).find(([name]) => name === kernel.inPlace?.[results[r] ?? ""])?.[1];
      const shared: number | undefined = over && lastRead.get(over) === i ? lifetimeOf.get(over) : undefined;
      if (shared !== undefined && lifetimes[shared]?.bytes === bytes && lifetimes[shared].last === i) {
        lifetimes[shared].last = end;
        lifetimeOf.set(result, shared);
      } else {
        lifetimeOf.set(result, lifetimes.length);
        lifetimes.push({ bytes, first: i, last: end });
      }
      owners.push({ key: result, type: result.type, lifetime: lifetimeOf.get(result) as number });
    }
  }
  const { offsets } = placeBuffers(lifetimes as readonly Lifetime[]);
  return new Map(
    owners.map(({ key, type, lifetime }) => [
      key as Value,
      { space: "arena", offset: offsets[lifetime] as number, bytes: (lifetimes[lifetime] as Lifetime).bytes, type },
    ]),
  );
}
