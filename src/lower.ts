/**
 * From a model to all that code is generated from: programs as buffers and calls, the kernels that they call, the places of the weights. Pure: nothing
 * is read or written but dumps, and no compiler is needed.
 */

import type { PlanProgram, ProgramKind } from "./codegen/plan.js";
import { bug, Diagnostic } from "./diagnostics.js";
import type { ModelConfig } from "./frontend/config.js";
import { buildProgram, PROGRAM_KINDS } from "./frontend/model.js";
import type { Limits } from "./frontend/model-json.js";
import { stepProblem } from "./frontend/step-problem.js";
import type { WeightSet } from "./frontend/weight-set.js";
import type { Graph } from "./ir/graph.js";
import { LEVELS, type Level, levelIndex } from "./ir/ops.js";
import { printAll } from "./ir/print.js";
import { kvCache, maxDim, type SymbolBounds } from "./ir/types.js";
import {
  type AnyKernel,
  type KernelFunction,
  type KernelParams,
  type KernelTarget,
  kernelFunctions,
  type UsedKernel,
} from "./kernels/kernel-def.js";
import { kernelByName } from "./kernels/table.js";
import type { TuningTable } from "./kernels/tuning.js";
import { cloneBuckets } from "./passes/lower/clone-buckets.js";
import { selectKernels } from "./passes/lower/select-kernels.js";
import { type LayoutChoice, selectLayouts } from "./passes/lower/select-layouts.js";
import { selectPersistent } from "./passes/lower/select-steps.js";
import type { Pass } from "./passes/pass.js";
import { bucketPasses, fusionPasses } from "./passes/pipeline.js";
import { persistDecode } from "./passes/plan/persist-decode.js";
import { kvLayerBytes, planMemory } from "./passes/plan/plan-memory.js";
import { planWeights, type WeightPlan } from "./passes/plan/plan-weights.js";
import { weightTraffic } from "./passes/plan/weight-traffic.js";
import { type PassReport, runPrograms } from "./passes/run.js";
import { type ArchLevel, isCudaArch, targetOf } from "./toolchain/arch.js";

export interface LowerInput {
  readonly config: ModelConfig;
  readonly weights: WeightSet;
  readonly activations: "bf16" | "f32";
  readonly arch: ArchLevel;
  readonly limits: Limits;
  readonly deterministic: boolean;
  readonly tuning?: TuningTable | undefined;
  /** Whether kernels in Triton can be compiled. */
  readonly triton?: boolean | undefined;
  /** How a decode step runs; `persistent`: small buckets as one launch, where there is one for the model. null: as measured rows say, else launches. */
  readonly decode?: "launches" | "persistent" | null;
}

export interface LowerOptions {
  readonly disablePasses?: readonly string[];
  readonly limit?: number;
  readonly dumpDir?: string;
  readonly verify?: boolean;
  /** Levels whose text is wanted. */
  readonly levels?: readonly Level[];
  /** Bytes that second copies of weights may take. */
  readonly copyLimit?: number;
}

export interface LoweredModel {
  readonly programs: readonly PlanProgram[];
  /** By name. */
  readonly kernels: readonly UsedKernel[];
  readonly weights: WeightPlan;
  readonly layouts: readonly LayoutChoice[];
  readonly kvBlockBytes: number;
  /** Of weights, for a step of each decode bucket (1, 2, 4, ... sequences), experts as often as evenly spread routing chooses them. */
  readonly decodeBytes: readonly number[];
  readonly reports: readonly PassReport[];
  /** Text of the levels asked for. */
  readonly ir: { readonly [L in Level]?: string };
}

export function lowerModel(input: LowerInput, options: LowerOptions = {}): LoweredModel {
  const { fusions, bucketFusions } = fusionsOf(input);
  checkDisabled(options.disablePasses ?? [], [...fusions, ...bucketFusions]);
  const target = kernelTarget(input);
  const layouts: LayoutChoice[] = [];
  let weights: WeightPlan | undefined;
  let kernels: readonly UsedKernel[] = [];
  let refused: string | undefined;
  const passes: readonly Pass[] = [
    ...fusions,
    cloneBuckets(input.limits),
    ...bucketFusions,
    selectLayouts({ target, copyLimit: options.copyLimit ?? 0, onChoice: (choice) => layouts.push(choice) }),
    selectKernels({ target, deterministic: input.deterministic, tuning: input.tuning }),
    planWeights((plan) => {
      weights = plan;
    }),
    planMemory({ kvBlockSize: input.limits.blockSize }),
    // Where the request asks for it, or a measurement.
    persistDecode({
      wanted: (sequences) => persistentStep(input, sequences),
      alternatives: input.decode !== "persistent",
      arch: input.arch,
      kernels: () => kernels,
      onKernels: (left) => {
        kernels = left;
      },
      onRefused: (_, reason) => {
        refused = reason;
      },
    }),
  ];
  const programs = programsOf(input);
  const wanted = new Set(options.levels ?? []);
  const ir: { [L in Level]?: string } = wanted.has("model") ? { model: printAll(programs) } : {};
  let decodeBytes: readonly number[] = [];
  const { graphs, reports } = runPrograms(programs, passes, {
    ...(options.disablePasses ? { disable: options.disablePasses } : {}),
    ...(options.limit === undefined ? {} : { limit: options.limit }),
    ...(options.dumpDir === undefined ? {} : { dumpDir: options.dumpDir }),
    ...(options.verify === undefined ? {} : { verify: options.verify }),
    onPass: ({ pass }, after) => {
      const level = LEVEL_AFTER[pass];
      if (level && wanted.has(level)) ir[level] = printAll(after);
      if (pass === "select-kernels") kernels = collectKernels(after);
      if (pass === "plan-weights") {
        const buckets = after.filter((graph) => kindOf(graph) === "decode");
        decodeBytes = buckets.map((graph) => weightTraffic(graph, maxDim({ symbol: "S", times: 1, plus: 0 }, graph.bounds)));
      }
    },
  });
  if (!weights) throw bug("the weights were not planned");
  // A row is about sizes alone, and a step of these may be another: then its launches stay.
  if (refused !== undefined && input.decode === "persistent") {
    throw new Diagnostic({
      code: "decode-persistent-unsupported",
      kind: "unsupported",
      message: `no launch does a whole decode step of this model: ${refused}`,
      place: "decode",
      hint: "it is for dense models on GPUs of sm_90a; leave decode out",
    });
  }
  const planned = graphs.map((graph) => ({ kind: kindOf(graph), graph }));
  return { programs: planned, kernels, weights, layouts, kvBlockBytes: target.kvBlockBytes, decodeBytes, reports, ir };
}

function persistentStep(
  { config, activations, arch, deterministic, decode, tuning }: LowerInput,
  sequences: number,
): KernelParams | undefined {
  if (decode === "launches" || !isCudaArch(arch)) return undefined;
  // It sums in an order of its own.
  const measured = deterministic ? undefined : selectPersistent(tuning, arch, stepProblem(config, activations), sequences);
  return measured ?? (decode === "persistent" ? {} : undefined);
}

/** The text of a level is that after these; the last of a level counts. */
const LEVEL_AFTER: { readonly [pass: string]: Level } = {
  "clone-buckets": "fused",
  "select-kernels": "kernel",
  "plan-memory": "plan",
  "persist-decode": "plan",
};

/** The graphs at level `kernel`, all buckets, with the default variant of every kernel: what there is to tune. */
export function kernelGraphs(input: LowerInput): readonly Graph[] {
  const { deterministic, limits } = input;
  const target = kernelTarget(input);
  const { fusions, bucketFusions } = fusionsOf(input);
  const fused = runPrograms(programsOf(input), [...fusions, cloneBuckets(limits), ...bucketFusions]).graphs;
  return runPrograms(fused, [selectLayouts({ target }), selectKernels({ target, deterministic })]).graphs;
}

function programsOf({ config, activations, arch, limits, weights }: LowerInput): readonly Graph[] {
  return PROGRAM_KINDS.map((kind) =>
    // Tensor cores read bf16.
    buildProgram(config, weights, {
      kind,
      activations,
      attentionInput: isCudaArch(arch) ? activations : undefined,
      bounds: programBounds(limits, kind),
    }),
  );
}

/** Those before and those after clone-buckets. */
function fusionsOf({ arch, deterministic }: LowerInput): { readonly fusions: readonly Pass[]; readonly bucketFusions: readonly Pass[] } {
  return { fusions: fusionPasses(targetOf(arch), deterministic), bucketFusions: bucketPasses(arch, deterministic) };
}

/** Without the passes that make launches and memory of a graph there is nothing to run; without a fusion there are more launches. */
function checkDisabled(names: readonly string[], fusions: readonly Pass[]): void {
  const known = [...new Set(fusions.map(({ name }) => name))];
  for (const name of names) {
    if (known.includes(name)) continue;
    throw new Diagnostic({
      code: "unknown-pass",
      message: `found ${JSON.stringify(name)}, expected a pass that can be left out`,
      place: "--disable-pass",
      hint: `these can: ${known.join(", ")}`,
    });
  }
}

function kernelTarget({ config, activations, arch, limits, triton }: LowerInput): KernelTarget {
  const layer = kvLayerBytes(kvCache(activations, config.kvHeads, config.headDim), limits.blockSize);
  return {
    arch,
    kvBlockSize: limits.blockSize,
    kvBlockBytes: layer * config.layers,
    maxContext: limits.maxContext,
    ...(triton ? { triton } : {}),
  };
}

const MOST_SCORED = 512;

function programBounds({ maxBatch, maxContext, blockSize, prefillChunk }: Limits, kind: ProgramKind): SymbolBounds {
  const blocks = { min: 1, max: Math.ceil(maxContext / blockSize) };
  // Logits of all rows are large: no more at once than keep the kernels busy.
  const scored = Math.min(prefillChunk, MOST_SCORED);
  const tokens = kind === "decode" ? maxBatch : kind === "prefill" ? Math.max(prefillChunk, maxBatch) : scored;
  // The runtime scores one sequence at a time.
  const sequences = kind === "score" || kind === "trace" ? 1 : maxBatch;
  return { T: { min: 1, max: tokens }, S: { min: 1, max: sequences }, C: blocks };
}

function kindOf(graph: Graph): ProgramKind {
  const kind = PROGRAM_KINDS.find((name) => graph.name === name || graph.name.startsWith(`${name}_`));
  if (!kind) throw bug(`a program named ${graph.name}`);
  return kind;
}

function collectKernels(graphs: readonly Graph[]): readonly UsedKernel[] {
  interface Entry {
    readonly kernel: AnyKernel;
    readonly params: KernelParams;
    readonly functions: Map<string, KernelFunction>;
    readonly launches: { [program: string]: number };
  }
  const used = new Map<string, Entry>();
  for (const graph of graphs) {
    for (const node of graph.nodes) {
      if (node.op !== "launch") continue;
      const kernel = kernelByName(node.attrs.op, node.attrs.kernel);
      const { rows: _, ...params } = node.attrs.params as KernelParams;
      const name = kernel.file(params);
      const known: Entry = used.get(name) ?? { kernel, params, functions: new Map(), launches: {} };
      if (JSON.stringify(known.params) !== JSON.stringify(params)) {
        throw bug(`two kernels of the name ${name}: ${JSON.stringify(known.params)} and ${JSON.stringify(params)}`);
      }
      for (const called of kernelFunctions(kernel, node.attrs.params as KernelParams)) known.functions.set(called.name, called);
      known.launches[graph.name] = (known.launches[graph.name] ?? 0) + 1;
      used.set(name, known);
    }
  }
  return [...used]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, { functions, ...rest }]) => ({
      name,
      ...rest,
      functions: [...functions.values()].sort((a, b) => (a.name < b.name ? -1 : 1)),
    }));
}

/** `--print-ir` without a level means all. */
export function levelsUpTo(level?: string): readonly Level[] {
  if (level === undefined) return LEVELS;
  const found = LEVELS.find((known) => known === level);
  if (!found)
    throw new Diagnostic({
      code: "unknown-level",
      message: `found ${JSON.stringify(level)}, expected ${LEVELS.join(", ")}`,
      place: "--print-ir",
      hint: "without a level all are printed",
    });
  return LEVELS.filter((known) => levelIndex(known) === levelIndex(found));
}
