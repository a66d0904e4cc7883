/**
 * Chooses one layout for each weight, for all programs and buckets together: every kernel says which it reads, and the one with the least time over
 * all readers wins. Where no single layout serves all readers, or where a second copy saves enough and fits the memory that was allowed for copies,
 * a weight is packed twice; the report says so. A tied embedding serves gather and head from one copy.
 *
 * In the graph a choice is a `pack` node between the weight and its readers. What packed bytes look like is in runtime/device/layout.
 */

import { Diagnostic } from "../../diagnostics.js";
import type { Graph, LooseAttrs, LooseOperands, Node, Value } from "../../ir/graph.js";
import { maxDim, type TensorType } from "../../ir/types.js";
import { type AnyKernel, fitKernel, type KernelParams, type KernelTarget, type WeightFormat } from "../../kernels/kernel-def.js";
import { kernelsFor } from "../../kernels/table.js";
import { targetOf } from "../../toolchain/arch.js";
import { packedBytes } from "../../weights/pack-plan.js";
import { definePass, type ProgramsPass } from "../pass.js";
import { BucketCopies, copyGraph, mapOperands } from "./copy-graph.js";
import { costInSeconds, launchRows } from "./cost.js";
import { type WeightKeys, type WeightRead, weightKeys, weightReads } from "./weight-keys.js";

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
  /** Of the weight, in all programs. */
  readonly key: string;
  /** Seconds of the best kernel for each format, by `formatName`. */
  readonly seconds: ReadonlyMap<string, number>;
}

/** A kernel that reads the weight in one format. */
interface Candidate {
  readonly format: string;
  readonly kernel: AnyKernel;
  readonly params: KernelParams;
}

export function selectLayouts(options: LayoutOptions): ProgramsPass {
  return definePass({ name: "select-layouts", needs: "fused", leaves: "kernel", runAll: (graphs) => run(graphs, options) });
}

function run(graphs: readonly Graph[], options: LayoutOptions): readonly Graph[] {
  const keysOf = weightKeys(graphs);
  const readers = readersOf(graphs, keysOf, options.target);
  const byWeight = new Map<string, Reader[]>();
  for (const reader of readers.flat()) {
    const known = byWeight.get(reader.key);
    if (known) known.push(reader);
    else byWeight.set(reader.key, [reader]);
  }
  let copyBytes = options.copyLimit ?? 0;
  const choices = new Map<string, LayoutChoice>();
  for (const [key, list] of byWeight) {
    const choice = chooseFormats(list, copyBytes);
    copyBytes -= choice.bytes - formatBytes(list, choice.formats[0] as WeightFormat);
    choices.set(key, choice);
    options.onChoice?.(choice);
  }
  const copies = new BucketCopies();
  return graphs.map((graph, i) => {
    const reads = (readers[i] as readonly Reader[]).map((reader) => ({ ...reader, format: fastestFormat(reader, choices) }));
    if (reads.length === 0) return graph;
    const alike = reads.map(({ format }) => format).join();
    return copies.copy(graph, alike, () => insertPacks(graph, keysOf[i] as WeightKeys, reads));
  });
}

/** Of each graph, in order. Which kernels could read a weight is asked once for all buckets of a program; how long they take depends on the bucket. */
function readersOf(graphs: readonly Graph[], keysOf: readonly WeightKeys[], target: KernelTarget): readonly (readonly Reader[])[] {
  const known = new Map<Graph["nodes"], readonly (WeightRead & { readonly candidates: readonly Candidate[] })[]>();
  return graphs.map((graph, i) => {
    const keys = keysOf[i] as WeightKeys;
    const reads =
      known.get(graph.nodes) ?? weightReads(graph, keys).map((read) => ({ ...read, candidates: candidatesFor(read, graph, target) }));
    known.set(graph.nodes, reads);
    return reads.map(({ candidates, ...read }) => {
      const rows = launchRows(read.node, graph);
      const seconds = new Map<string, number>();
      for (const { format, kernel, params } of candidates) {
        const time = costInSeconds(kernel.cost(params, rows), target.arch);
        seconds.set(format, Math.min(time, seconds.get(format) ?? Number.POSITIVE_INFINITY));
      }
      return { ...read, key: keys.key(read.value), seconds };
    });
  });
}

export function formatName({ layout, dtype }: WeightFormat): string {
  return `${layout} ${dtype}`;
}

function candidatesFor({ node, operand, value }: WeightRead, graph: Graph, target: KernelTarget): readonly Candidate[] {
  const candidates: Candidate[] = [];
  const reasons: string[] = [];
  const dtype = (value.type as TensorType).dtype;
  for (const kernel of kernelsFor(node.op, targetOf(target.arch))) {
    const params = fitKernel(kernel, node, target);
    if (typeof params === "string") {
      reasons.push(`${kernel.name}: ${params}`);
      continue;
    }
    for (const format of kernel.weights?.[operand] ?? []) {
      // Widening keeps every value, narrowing would not.
      if (format.dtype !== dtype && format.dtype !== "f32") continue;
      const packed = { ...params, [`${operand}_layout`]: format.layout, [`${operand}_dtype`]: format.dtype };
      candidates.push({ format: formatName(format), kernel, params: packed });
    }
  }
  if (candidates.length > 0) return candidates;
  throw new Diagnostic({
    code: "kernel-missing",
    kind: "unsupported",
    message: `no kernel reads the ${operand} of this ${node.op}${reasons.length ? `: ${reasons.join("; ")}` : ""}`,
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

/** Of the copies that there are of a weight, the one that a reader reads fastest. */
function fastestFormat({ key, seconds }: Reader, choices: ReadonlyMap<string, LayoutChoice>): string {
  const time = (name: string): number => seconds.get(name) ?? Number.POSITIVE_INFINITY;
  const names = (choices.get(key) as LayoutChoice).formats.map(formatName);
  return names.reduce((best, other) => (time(other) < time(best) ? other : best));
}

/** Puts the copies that are read beside each weight, and gives each reader its own. */
function insertPacks(graph: Graph, keys: WeightKeys, reads: readonly (WeightRead & { readonly format: string })[]): Graph {
  const wanted = new Map<Value, Set<string>>();
  const taken = new Map<Node, Map<Value, string>>();
  for (const { node, value, format } of reads) {
    wanted.set(value, (wanted.get(value) ?? new Set()).add(format));
    taken.set(node, (taken.get(node) ?? new Map()).set(value, format));
  }
  const packed = new Map<Value, ReadonlyMap<string, Value>>();
  return copyGraph(graph, (node, { build, value, keep }) => {
    if (keys.isWeight(node.results[0] as Value)) {
      const results = keep(node);
      for (const [i, result] of node.results.entries()) {
        const pack = (name: string): Value =>
          build.nodeLoose("pack", { x: results[i] as Value }, { ...parseFormat(name) }, [], node.origin).results[0] as Value;
        packed.set(result, new Map([...(wanted.get(result) ?? [])].map((name) => [name, pack(name)])));
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
