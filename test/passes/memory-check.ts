/**
 * Runs a planned program on memory that knows whose bytes it holds: every call must find its operands whole where it looks for them, written by the
 * launch that the graph before says, and what it writes may cover only what nobody reads any more.
 */

import type { Graph, NodeOf, Value } from "../../src/ir/graph.js";
import { isOpName, opDef } from "../../src/ir/ops.js";
import { DTYPES, maxDim, type TensorType } from "../../src/ir/types.js";
import type { KernelParams } from "../../src/kernels/kernel-def.js";
import { kernelByName } from "../../src/kernels/table.js";
import { namedOperands } from "../../src/passes/lower/launches.js";

interface Place {
  readonly space: string;
  readonly start: number;
  readonly end: number;
}

interface Held extends Place {
  readonly value: Value;
}

const overlap = (a: Place, b: Place): boolean => a.space === b.space && a.start < b.end && b.start < a.end;
const same = (a: Place, b: Place): boolean => a.space === b.space && a.start === b.start && a.end === b.end;

export function checkMemory(launched: Graph, planned: Graph, align: number): void {
  const buffers = new Map<Value, Place>();
  for (const node of planned.nodes) {
    if (node.op !== "buffer") continue;
    const { space, offset, bytes } = node.attrs;
    if (offset % align !== 0) throw new Error(`a buffer at ${offset}`);
    buffers.set(node.results[0] as Value, { space, start: offset, end: offset + bytes });
  }
  const launches = launched.nodes.filter((node) => node.op === "launch");
  const calls = planned.nodes.filter((node) => node.op === "call");
  if (launches.length !== calls.length) throw new Error(`${launches.length} launches, ${calls.length} calls`);

  let memory: Held[] = [];
  /** Of inputs and weights, as the first reader finds them. */
  const fixed = new Map<Value, Place>();
  const made = new Set(launches.flatMap((launch) => launch.results));
  const cacheOf = new Map<Value, Value>();
  for (const [i, launch] of launches.entries()) {
    const { reads, writes, scratch } = placesOf(launch, calls[i] as NodeOf<"call">, buffers);
    for (const { value, place } of reads) {
      checkSize(value, place, launched);
      const isCache = value.type.kind === "kv";
      const held = isCache
        ? fixed.get(cacheOf.get(value) ?? value)
        : made.has(value)
          ? memory.find((entry) => entry.value === value)
          : fixed.get(value);
      if (!held && (made.has(value) || cacheOf.has(value))) throw new Error(`launch ${i} reads a value that is gone`);
      if (held && !same(held, place)) throw new Error(`launch ${i} looks for a value in another place`);
      if (!held) fixed.set(value, place);
    }
    if (scratch && [...reads, ...writes].some(({ place }) => overlap(scratch, place)))
      throw new Error(`launch ${i}: scratch lies over a value`);
    const { inPlace = {} } = kernelByName(launch.attrs.op, launch.attrs.kernel);
    for (const [w, write] of writes.entries()) {
      checkSize(write.value, write.place, launched);
      for (const other of writes.slice(0, w))
        if (overlap(other.place, write.place)) throw new Error(`launch ${i}: two results in one place`);
      for (const read of reads) {
        if (!overlap(read.place, write.place)) continue;
        if (inPlace[write.name] !== read.name || !same(read.place, write.place)) throw new Error(`launch ${i} writes over what it reads`);
      }
    }
    const gone = [...writes.map(({ place }) => place), ...(scratch ? [scratch] : [])];
    for (const place of gone) if (place.space !== "arena") throw new Error(`launch ${i} writes to ${place.space}`);
    memory = memory.filter((held) => !gone.some((place) => overlap(held, place)));
    for (const { value, place } of writes) memory.push({ value, ...place });
    const before = reads.find(({ value }) => value.type.kind === "kv")?.value;
    for (const result of launch.results) if (result.type.kind === "kv" && before) cacheOf.set(result, cacheOf.get(before) ?? before);
  }
  const returned = launched.returns.filter(({ value }) => value.type.kind === "tensor");
  for (const [i, { name, value }] of returned.entries()) {
    const place = buffers.get(planned.returns[i]?.value as Value);
    if (planned.returns[i]?.name !== name || !place) throw new Error(`the result ${name} has no place`);
    if (!memory.some((held) => held.value === value && same(held, place))) throw new Error(`the result ${name} is gone at the end`);
  }
}

interface Access {
  readonly name: string;
  readonly value: Value;
  readonly place: Place;
}

/** A call's arguments by their names in the kernel: operands, results that are tensors, scratch. */
function placesOf(
  launch: NodeOf<"launch">,
  call: NodeOf<"call">,
  buffers: ReadonlyMap<Value, Place>,
): { reads: Access[]; writes: Access[]; scratch: Place | undefined } {
  const kernel = kernelByName(launch.attrs.op, launch.attrs.kernel);
  const operands = new Map(namedOperands(launch));
  const results = new Map<string, Value>();
  const names = isOpName(launch.attrs.op) ? opDef(launch.attrs.op).results : [];
  for (const [i, value] of launch.results.entries()) {
    const many = names.find((name) => name.endsWith("*"));
    results.set(many ? `${many.slice(0, -1)}.${i}` : (names[i] as string), value);
  }
  const reads: Access[] = [];
  const writes: Access[] = [];
  let scratch: Place | undefined;
  for (const [i, { name }] of kernel.args(launch.attrs.params as KernelParams).entries()) {
    const place = buffers.get(call.operands.args[i] as Value);
    if (!place) throw new Error(`argument ${name} is no buffer`);
    const [operand, result] = [operands.get(name), results.get(name)];
    if (name === "workspace") scratch = place;
    else if (operand) reads.push({ name, value: operand, place });
    else if (result) writes.push({ name, value: result, place });
    else throw new Error(`nobody knows the argument ${name}`);
  }
  return { reads, writes, scratch };
}

/** Room for the largest step. */
function checkSize({ type }: Value, { start, end }: Place, { bounds }: Graph): void {
  if (type.kind === "kv") return;
  const { dtype, shape } = type as TensorType;
  const bytes = shape.reduce<number>((product, dim) => product * maxDim(dim, bounds), DTYPES[dtype].bytes);
  if (end - start < bytes) throw new Error(`${end - start} bytes for ${bytes}`);
}
