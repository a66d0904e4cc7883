/**
 * Graphs at level `plan` -> src/plan.cpp. Every launch, offset and size in it comes from the graphs; what the fields mean is in runtime/src/plan.hpp.
 * No text from a model folder gets here: names are those of kernels and of results, which the compiler makes.
 */

import { bug } from "../diagnostics.js";
import type { Graph, NodeOf, Value } from "../ir/graph.js";
import { type DType, maxDim, type TensorType } from "../ir/types.js";
import type { UsedKernel } from "../kernels/kernel-def.js";
import type { View } from "../kernels/view.js";
import { placeInputs, STEP_INPUTS } from "../passes/plan/step-inputs.js";
import { type ArchLevel, isCudaArch } from "../toolchain/arch.js";
import { type DeviceTables, deviceTables, deviceView, launchView } from "./device-plan.js";
import { renderTemplate } from "./render.js";

export type ProgramKind = "prefill" | "decode" | "score" | "trace";

export interface PlanProgram {
  readonly kind: ProgramKind;
  readonly graph: Graph;
}

export interface SyntheticFill {
  readonly offset: number;
  readonly elements: number;
  readonly dtype: "f32" | "bf16";
  readonly fill: "constant" | "uniform" | "normal";
  readonly scale: number;
}

export type PlanWeights =
  | { readonly kind: "file"; readonly name: string; readonly bytes: number; readonly dataOffset: number; readonly headerSha256: string }
  | { readonly kind: "synthetic"; readonly seed: number; readonly fills: readonly SyntheticFill[] };

export interface PlanInput {
  readonly version: string;
  readonly arch: ArchLevel;
  readonly buildId: string;
  /** Numbers and words of the compiler's own. */
  readonly info: { readonly [name: string]: unknown };
  readonly vocabSize: number;
  readonly limits: {
    readonly maxContext: number;
    readonly maxBatch: number;
    readonly prefillChunk: number;
    readonly kvTokens: number;
    readonly blockSize: number;
  };
  readonly threads: number;
  readonly kvBlockBytes: number;
  readonly weightsBytes: number;
  readonly weights: PlanWeights;
  readonly programs: readonly PlanProgram[];
  /** By name: what a GPU launches. */
  readonly kernels: readonly UsedKernel[];
}

export function renderPlan(input: PlanInput): string {
  const device = isCudaArch(input.arch)
    ? deviceTables(input.arch, input.kernels, input.vocabSize, input.weights.kind === "synthetic")
    : undefined;
  const programs = input.programs.map((program) => programView(program, device));
  const kernels = [...new Set(input.programs.flatMap(({ graph }) => callsOf(graph).map(({ attrs }) => attrs.kernel)))].sort();
  return renderTemplate("package/plan", {
    version: input.version,
    kernels: kernels.map((name) => ({ name: identifier(name) })),
    programs,
    program_count: programs.length,
    ...deviceView(device),
    // The runtime of a GPU package runs on any x86-64.
    arch: device ? "x86_64_v3" : identifier(input.arch.replaceAll("-", "_")),
    build_id: identifier(input.buildId),
    info_json: rawString(JSON.stringify(input.info)),
    vocab_size: input.vocabSize,
    max_context: input.limits.maxContext,
    max_batch: input.limits.maxBatch,
    prefill_chunk: input.limits.prefillChunk,
    threads: input.threads,
    kv_block_size: input.limits.blockSize,
    kv_block_bytes: input.kvBlockBytes,
    kv_tokens: input.limits.kvTokens,
    weights_bytes: input.weightsBytes,
    ...weightsView(input.weights),
  });
}

function weightsView(weights: PlanWeights): View {
  const synthetic = weights.kind === "synthetic";
  return {
    is_synthetic: synthetic,
    synthetic: synthetic ? weights.fills.map((fill) => ({ ...fill, scale: floatText(fill.scale) })) : [],
    synthetic_count: synthetic ? weights.fills.length : 0,
    synthetic_seed: synthetic ? weights.seed : 0,
    weights_name: synthetic ? "" : weights.name,
    weights_file_bytes: synthetic ? 0 : weights.bytes,
    weights_data_offset: synthetic ? 0 : weights.dataOffset,
    weights_header_sha256: synthetic ? "" : weights.headerSha256,
  };
}

export function callsOf(graph: Graph): readonly NodeOf<"call">[] {
  return graph.nodes.filter((node) => node.op === "call");
}

/** The buffer that each value of a planned graph is. */
export function buffersOf(graph: Graph): ReadonlyMap<Value, NodeOf<"buffer">> {
  const buffers = new Map<Value, NodeOf<"buffer">>();
  for (const node of graph.nodes) if (node.op === "buffer") buffers.set(node.results[0] as Value, node);
  return buffers;
}

/** Bytes of scratch that a step needs. */
export function arenaBytes(graph: Graph): number {
  return Math.max(
    0,
    ...[...buffersOf(graph).values()]
      .filter(({ attrs }) => attrs.space === "arena")
      .map(({ attrs }) => attrs.offset + Math.ceil(attrs.bytes / 64) * 64),
  );
}

function programView({ kind, graph }: PlanProgram, device: DeviceTables | undefined): View {
  const id = identifier(graph.name);
  const buffers = buffersOf(graph);
  const place = (value: Value): { space: string; offset: number } => {
    const buffer = buffers.get(value);
    if (!buffer) throw bug(`a call of @${graph.name} has an argument that is no buffer`);
    return { space: identifier(buffer.attrs.space), offset: buffer.attrs.offset };
  };
  const [maxTokens, maxSequences] = (["T", "S"] as const).map((symbol) => maxDim({ symbol, times: 1, plus: 0 }, graph.bounds)) as [
    number,
    number,
  ];
  let first = 0;
  const launches = callsOf(graph).map((node, number) => {
    const args = node.operands.args.map(place);
    const launch = {
      number,
      kernel: identifier(node.attrs.kernel),
      origin: originText(node),
      args,
      first,
      count: args.length,
      program: id,
      is_device: device !== undefined,
      ...launchView(device, node.attrs.kernel, { tokens: maxTokens, sequences: maxSequences }),
    };
    first += args.length;
    return launch;
  });
  const inputs = placeInputs(graph.params, graph.bounds);
  const names = inputs.places.map(({ name }) => name);
  if (names.join() !== STEP_INPUTS.join())
    throw bug(`@${graph.name} takes ${names.join(", ")}, the runtime fills ${STEP_INPUTS.join(", ")}`);
  const outputs = graph.returns.map(({ name, value }) => outputView(name, value, place(value).offset));
  return {
    id,
    kind,
    is_device: device !== undefined,
    map_count: launches.reduce((sum, { maps }) => sum + (maps as readonly View[]).length, 0),
    max_tokens: maxTokens,
    max_sequences: maxSequences,
    launches,
    launch_count: launches.length,
    arena_bytes: arenaBytes(graph),
    inputs: inputs.places.map(({ name, offset }) => ({ name, offset })),
    inputs_bytes: inputs.bytes,
    outputs,
    output_count: outputs.length,
  };
}

function outputView(name: string, value: Value, offset: number): View {
  const { dtype, shape } = value.type as TensorType;
  const role = name === "logits" || name === "next_ids" ? name : "traced";
  return { role, dtype: outputType(dtype), name: resultName(name), offset, columns: shape.length > 1 ? maxDim(shape[1] as number, {}) : 1 };
}

function outputType(dtype: DType): string {
  if (dtype !== "f32" && dtype !== "bf16" && dtype !== "i32") throw bug(`a result of ${dtype}`);
  return dtype;
}

/** Which weight or config key a launch is about, for a reader of plan.cpp; only where the text is plain enough for a comment. */
function originText({ origin }: NodeOf<"call">): string {
  const text =
    origin.kind === "weight" ? origin.name : origin.kind === "config" ? origin.key : origin.kind === "pass" ? (origin.from[0] ?? "") : "";
  return /^[A-Za-z0-9_.*]{1,80}$/.test(text) && !text.includes("*") ? text : "";
}

/** The last check before a name becomes C++: whatever made it, it is plain. */
function identifier(name: string): string {
  if (!/^[A-Za-z0-9_]+$/.test(name)) throw bug(`${JSON.stringify(name)} is no identifier`);
  return name;
}

function resultName(name: string): string {
  if (!/^[A-Za-z0-9_.]+$/.test(name)) throw bug(`${JSON.stringify(name)} is no name of a result`);
  return name;
}

function rawString(text: string): string {
  if (!/^[\x20-\x7e]*$/.test(text) || text.includes(')json"')) throw bug("text in info_json that C++ would read otherwise");
  return text;
}

function floatText(value: number): string {
  const text = String(Math.fround(value));
  return /[.e]/.test(text) ? text : `${text}.0`;
}
