/**
 * Chooses one layout for each weight, for all programs and buckets together: every kernel says which it reads, and the one with the least time over
 * all readers wins. Where no single layout serves all readers, or where a second copy saves enough and fits the memory that was allowed for copies,
 * a weight is packed twice; the report says so. A tied embedding serves gather and head from one copy.
 *
 * In the graph a choice is a `pack` node between the weight and its readers. What packed bytes look like is in runtime/device/layout.
 */

import { fitKernel, type KernelTarget, type WeightFormat } from "../../codegen/kernel-def.js";
import { kernelsFor } from "../../codegen/kernels.js";
import { Diagnostic } from "../../diagnostics.js";
import type { Graph, LooseAttrs, LooseOperands, Node, Value } from "../../ir/graph.js";
import { maxDim, type TensorType } from "../../ir/types.js";
import { packedBytes } from "../../weights/pack-plan.js";
import { definePass, type ProgramsPass } from "../pass.js";
import { copyGraph, mapOperands } from "./copy-graph.js";
import { costInSeconds, launchRows } from "./cost.js";
import { WeightKeys, type WeightRead, weightReads } from "./weight-keys.js";

export interface LayoutOptions {
  readonly target: KernelTarget;
  /** Bytes that second copies of weights may take in all. */
  readonly copyLimit?: number;
  readonly onChoice?: (choice: LayoutChoice) => void;
}

/** What was chosen for one weight, and what else there was. */
export interface LayoutChoice {
  readonly formats: readonly WeightFormat[];
  /** Of all copies. */
  readonly bytes: number;
  readonly readers: readonly string[];
  /** Estimated seconds of all readers in one step of each program. */
  readonly seconds: number;
}

interface Reader extends WeightRead {
  readonly graph: Graph;
  /** Seconds of the best kernel for each format, by `formatName`. */
  readonly seconds: ReadonlyMap<string, number>;
}

export function selectLayouts(options: LayoutOptions): ProgramsPass {
  return definePass({ name: "select-layouts", needs: "fused", leaves: "kernel", runAll: (graphs) => run(graphs, options) });
}

function run(graphs: readonly Graph[], options: LayoutOptions): readonly Graph[] {
  const keysOf = graphs.map((graph) => new WeightKeys(graph));
  const readers = new Map<string, Reader[]>();
  for (const [i, graph] of graphs.entries()) {
    const keys = keysOf[i] as WeightKeys;
    for (const read of weightReads(graph, keys)) {
      const reader = { ...read, graph, seconds: secondsByFormat(read, graph, options.target) };
      const key = keys.key(read.value);
      const known = readers.get(key);
      if (known) known.push(reader);
      else readers.set(key, [reader]);
    }
  }
  let copyBytes = options.copyLimit ?? 0;
  const choices = new Map<string, readonly WeightFormat[]>();
  for (const [key, list] of readers) {
    const choice = chooseFormats(list, copyBytes);
    copyBytes -= choice.bytes - formatBytes(list, choice.formats[0] as WeightFormat);
    choices.set(key, choice.formats);
    options.onChoice?.(choice);
  }
  return graphs.map((graph, i) => insertPacks(graph, keysOf[i] as WeightKeys, choices, options.target));
}

export function formatName({ layout, dtype }: WeightFormat): string {
  return `${layout} ${dtype}`;
}

function secondsByFormat(read: WeightRead, graph: Graph, target: KernelTarget): ReadonlyMap<string, number> {
  const seconds = new Map<string, number>();
  const reasons: string[] = [];
  const dtype = (read.value.type as TensorType).dtype;
  for (const kernel of kernelsFor(read.node.op)) {
    const params = fitKernel(kernel, read.node, target);
    if (typeof params === "string") {
      reasons.push(`${kernel.name}: ${params}`);
      continue;
    }
    for (const format of kernel.weights?.[read.operand] ?? []) {
      // Widening keeps every value, narrowing would not.
      if (format.dtype !== dtype && format.dtype !== "f32") continue;
      const time = costInSeconds(
        kernel.cost({ ...params, [`${read.operand}_layout`]: format.layout }, launchRows(read.node, graph)),
        target.arch,
      );
      seconds.set(formatName(format), Math.min(time, seconds.get(formatName(format)) ?? Number.POSITIVE_INFINITY));
    }
  }
  if (seconds.size > 0) return seconds;
  throw new Diagnostic({
    code: "kernel-missing",
    kind: "unsupported",
    message: `no kernel reads the ${read.operand} of this ${read.node.op}${reasons.length ? `: ${reasons.join("; ")}` : ""}`,
    place: `program ${graph.name}`,
  });
}

function formatBytes(readers: readonly Reader[], format: WeightFormat): number {
  const { shape } = (readers[0] as Reader).value.type as TensorType;
  const dims = shape.map((dim) => maxDim(dim, {}));
  const [slabs, n, k] = dims.length === 3 ? dims : dims.length === 2 ? [1, ...dims] : [1, ...dims, 1];
  return packedBytes({
    layout: format.layout,
    dtype: format.dtype === "bf16" ? "bf16" : "f32",
    shape: [slabs as number, n as number, k as number],
  });
}

/** A second copy must save at least this share of the readers' time, or it is not worth its memory. */
const COPY_GAIN = 0.1;

function chooseFormats(readers: readonly Reader[], copyBytes: number): LayoutChoice {
  const formats = new Map<string, WeightFormat>();
  for (const reader of readers) for (const name of reader.seconds.keys()) formats.set(name, parseFormat(name));
  const single = [...formats].map(([name, format]) => toChoice(readers, [format], [name]));
  const pairs = [...formats].flatMap(([a, first], i) =>
    [...formats].slice(i + 1).map(([b, second]) => toChoice(readers, [first, second], [a, b])),
  );
  const bestSingle = cheapest(single);
  const bestPair = cheapest(pairs);
  if (!bestPair || !Number.isFinite(bestPair.seconds)) return bestSingle as LayoutChoice;
  if (!bestSingle || !Number.isFinite(bestSingle.seconds)) return bestPair;
  const fits = bestPair.bytes - bestSingle.bytes <= copyBytes;
  return fits && bestPair.seconds <= bestSingle.seconds * (1 - COPY_GAIN) ? bestPair : bestSingle;
}

function parseFormat(name: string): WeightFormat {
  const [layout, dtype] = name.split(" ") as [WeightFormat["layout"], WeightFormat["dtype"]];
  return { layout, dtype };
}

function toChoice(readers: readonly Reader[], formats: readonly WeightFormat[], names: readonly string[]): LayoutChoice {
  const seconds = readers.reduce(
    (sum, reader) => sum + Math.min(...names.map((name) => reader.seconds.get(name) ?? Number.POSITIVE_INFINITY)),
    0,
  );
  const bytes = formats.reduce((sum, format) => sum + formatBytes(readers, format), 0);
  return { formats, bytes, seconds, readers: [...new Set(readers.map(({ node, operand }) => `${node.op}.${operand}`))].sort() };
}

/** Least time, then fewest bytes, then the order in which kernels name formats. */
function cheapest(choices: readonly LayoutChoice[]): LayoutChoice | undefined {
  return choices.reduce<LayoutChoice | undefined>(
    (best, choice) =>
      !best || choice.seconds < best.seconds || (choice.seconds === best.seconds && choice.bytes < best.bytes) ? choice : best,
    undefined,
  );
}

/** Puts the chosen copies beside each weight, and has each reader take the one that it reads fastest. */
function insertPacks(graph: Graph, keys: WeightKeys, choices: ReadonlyMap<string, readonly WeightFormat[]>, target: KernelTarget): Graph {
  const reads = weightReads(graph, keys);
  if (reads.length === 0) return graph;
  const wanted = new Map<Value, Set<string>>();
  const taken = new Map<Node, Map<Value, string>>();
  for (const read of reads) {
    const seconds = secondsByFormat(read, graph, target);
    const names = (choices.get(keys.key(read.value)) as readonly WeightFormat[]).map(formatName);
    const name = names.reduce((best, other) => (timeOf(seconds, other) < timeOf(seconds, best) ? other : best));
    wanted.set(read.value, (wanted.get(read.value) ?? new Set()).add(name));
    taken.set(read.node, (taken.get(read.node) ?? new Map()).set(read.value, name));
  }
  const packed = new Map<Value, ReadonlyMap<string, Value>>();
  return copyGraph(graph, (node, { build, value, keep }) => {
    if (keys.isWeight(node.results[0] as Value)) {
      const results = keep(node);
      for (const [i, result] of node.results.entries()) {
        const names = [...(wanted.get(result) ?? [])];
        const x = results[i] as Value;
        packed.set(
          result,
          new Map(
            names.map((name) => [name, build.nodeLoose("pack", { x }, { ...parseFormat(name) }, [], node.origin).results[0] as Value]),
          ),
        );
      }
      return results;
    }
    const formats = taken.get(node);
    const take = (old: Value): Value => packed.get(old)?.get(formats?.get(old) ?? "") ?? value(old);
    const types = node.results.map((result) => result.type);
    return build.nodeUnchecked(node.op, mapOperands(node.operands as LooseOperands, take), node.attrs as LooseAttrs, types, node.origin)
      .results;
  });
}

function timeOf(seconds: ReadonlyMap<string, number>, name: string): number {
  return seconds.get(name) ?? Number.POSITIVE_INFINITY;
}
