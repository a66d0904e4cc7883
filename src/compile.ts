/**
 * The driver: a compile request becomes a package. Lowering and text are in lower.ts and codegen/, compilers and cache in toolchain/, packing in weights/;
 * here is their order, what runs beside what, and what is reported. A dry run stops before anything is written.
 */

import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { type BindingsInput, renderBindings } from "./codegen/bindings.js";
import { cubinAssembly, cudaUnits, extraCudaSources, tritonUnits } from "./codegen/cuda-units.js";
import { checkOutputFolder, PACKAGE_FORMAT, PACKAGE_MAKER, type StagedPackage, withOutputFolder } from "./codegen/output-folder.js";
import { BuildFiles, copyFixedFiles, kernelList, rootFiles, rootList, sourcesHash, WEIGHTS_FILE } from "./codegen/package.js";
import { arenaBytes, type PlanWeights, renderPlan } from "./codegen/plan.js";
import { cmakeLists, kernelPath, kernelSources } from "./codegen/sources.js";
import { syntheticFill } from "./codegen/synthetic.js";
import { Diagnostic } from "./diagnostics.js";
import { countModel, countParameters, promptOperations } from "./frontend/count.js";
import { type LoadedModel, loadModel } from "./frontend/load-model.js";
import type { CompileRequest } from "./frontend/model-json.js";
import { stepProblem } from "./frontend/step-problem.js";
import type { Level } from "./ir/ops.js";
import { PERSISTENT_DECODE } from "./kernels/cuda/persistent.js";
import type { UsedKernel } from "./kernels/kernel-def.js";
import { isTriton } from "./kernels/table.js";
import type { TuningTable } from "./kernels/tuning.js";
import { type LoweredModel, lowerModel } from "./lower.js";
import type { LayoutChoice } from "./passes/lower/select-layouts.js";
import { selectChunk, selectThreads } from "./passes/lower/select-steps.js";
import { resolvePackPlan } from "./passes/plan/resolve-pack-plan.js";
import type { PassReport } from "./passes/run.js";
import { compilerVersion } from "./project.js";
import { type ArchLevel, isCudaArch, resolveArch } from "./toolchain/arch.js";
import { Cache, sha256 } from "./toolchain/cache.js";
import { checkText, compileTextCheck } from "./toolchain/check-text.js";
import { findCompiler } from "./toolchain/compiler.js";
import { COMMON_FLAGS } from "./toolchain/cxx.js";
import {
  buildAddon,
  buildPacker,
  CUBIN_ASSEMBLY,
  compileLibrary,
  compilePlan,
  embedCubins,
  KERNEL_FLAGS,
  LIBRARY_EXPORTS,
  linkLibrary,
  type NativeOptions,
  PLAN_SOURCE,
  RUNTIME_FLAGS,
} from "./toolchain/native.js";
import { compileCubins, findNvcc, NVCC_FLAGS, type Nvcc } from "./toolchain/nvcc.js";
import { compileTriton, findTriton, type Triton, tritonMissing } from "./toolchain/triton.js";
import { deviceClass } from "./tune/device.js";
import { type FoundTable, findCudaTables, findTables, namedTable } from "./tune/tables.js";
import { fileError, makeFolder } from "./weights/file.js";
import { fingerprintCheckpoint } from "./weights/fingerprint.js";
import { layOutPackedHead, type PackedHead, type PackPlan } from "./weights/pack-plan.js";
import { runPacker } from "./weights/packer.js";

/** In the order in which they begin; `compile` and `pack` run side by side. */
export const PHASES = ["load", "lower", "generate", "compile", "pack", "link", "write"] as const;
export type Phase = (typeof PHASES)[number];

export type Progress =
  | { readonly kind: "start"; readonly phase: Phase }
  /** Units compiled, or bytes packed. */
  | { readonly kind: "step"; readonly phase: Phase; readonly done: number; readonly total: number; readonly detail?: string }
  | { readonly kind: "end"; readonly phase: Phase; readonly ms: number; readonly detail?: string };

export interface CompileOptions {
  readonly onProgress?: (progress: Progress) => void;
  readonly dryRun?: boolean;
  readonly disablePasses?: readonly string[];
  /** At most this many rewrites, for bisecting. */
  readonly limit?: number;
  /** Folder for the graphs after each pass. */
  readonly dumpDir?: string;
  /** Levels whose graphs are wanted as text. */
  readonly levels?: readonly Level[];
  /** Bytes that second copies of weights may take. */
  readonly copyLimit?: number;
  /** Measured rows, in place of those that there are for the machine or that the request names. */
  readonly table?: TuningTable;
  /** The C++ compiler to use. */
  readonly cxx?: string;
  /** Folder of the CUDA toolkit to use. */
  readonly cuda?: string;
  readonly cacheRoot?: string;
  readonly signal?: AbortSignal;
}

export interface CompileResult {
  /** Absolute path of the package; null after a dry run. */
  readonly out: string | null;
  /** `build-<hash>` within it. */
  readonly build: string | null;
  readonly buildId: string | null;
  readonly arch: ArchLevel;
  readonly kernels: readonly UsedKernel[];
  readonly programs: readonly ProgramSummary[];
  readonly layouts: readonly LayoutChoice[];
  readonly passes: readonly PassReport[];
  readonly memory: MemorySummary;
  /** Which tables of measurements chose among kernels; null for none. */
  readonly tuning: TuningSummary | null;
  readonly compiled: { readonly units: number; readonly cached: number };
  readonly phases: readonly { readonly phase: Phase; readonly ms: number }[];
  readonly warnings: readonly Diagnostic[];
  readonly unused: LoadedModel["unused"];
  readonly ir: LoweredModel["ir"];
}

export interface TuningSummary {
  readonly device: string;
  readonly sources: FoundTable["sources"];
}

export interface ProgramSummary {
  readonly name: string;
  readonly kind: string;
  readonly launches: number;
  readonly arenaBytes: number;
}

export interface MemorySummary {
  readonly weights: number;
  /** Scratch of the largest program. */
  readonly arena: number;
  readonly kvBytesPerToken: number;
  /** Of the pool at its default size. */
  readonly kv: number;
}

export async function compile(asked: CompileRequest, options: CompileOptions = {}): Promise<CompileResult> {
  const clock = new Clock(options.onProgress, options.signal);
  if (process.platform !== "linux" || process.arch !== "x64") {
    throw new Diagnostic({
      code: "platform-unsupported",
      kind: "unsupported",
      message: `found ${process.platform} ${process.arch}, expected Linux on x86-64`,
      place: "this machine",
      hint: "compile and run on a Linux x86-64 machine or container",
    });
  }
  const arch = resolveArch(asked.arch, asked.target);
  if (!options.dryRun) {
    if (asked.out === null)
      throw new Diagnostic({
        code: "output-missing",
        message: "found no output folder",
        place: "-o",
        hint: "name the folder of the package with -o",
      });
    await checkOutputFolder(asked.out);
  }
  if (options.dumpDir !== undefined) await makeDumpFolder(options.dumpDir);
  const model = await clock.run("load", () => loadModel(asked));
  const found = options.table ? { table: options.table, sources: [] } : resolveTuning(asked, arch);
  const request = withMeasured(asked, arch, found?.table);
  const { triton, warnings } = isCudaArch(arch) ? await resolveTriton(found?.table, options) : NO_TRITON;
  const lowered = await clock.run("lower", () => lower(request, model, arch, found, triton !== undefined, options));
  const summary = { ...summarize(request, lowered), tuning: found ? { device: found.table.device, sources: found.sources } : null };
  const common = {
    arch,
    kernels: lowered.kernels,
    layouts: lowered.layouts,
    passes: lowered.reports,
    warnings: [...model.warnings, ...warnings],
    unused: model.unused,
    ir: lowered.ir,
    ...summary,
  };
  if (options.dryRun || request.out === null) {
    // Rendering finds what a dry run should: a template that does not fit its view.
    kernelSources(lowered.kernels);
    return { out: null, build: null, buildId: null, compiled: { units: 0, cached: 0 }, phases: clock.phases, ...common };
  }
  const out = resolve(request.out);
  const context: BuildContext = { request, model, lowered, arch, triton, summary, options, clock, counts: { units: 0, cached: 0 } };
  const { buildId, path } = await withOutputFolder(out, (staged) => build(context, staged));
  return { out, build: path.slice(out.length + 1), buildId, compiled: context.counts, phases: clock.phases, ...common };
}

/** Before anything else is done: that it can't be made is found at once. */
async function makeDumpFolder(path: string): Promise<void> {
  try {
    await makeFolder(resolve(path));
  } catch (error) {
    throw fileError(error, path);
  }
}

/**
 * Like `native`, an unsaid table is a question that is answered first: with what was measured on machines of this class. The answer is in the manifest;
 * on another machine `tuning` names the same table.
 */
function resolveTuning({ tuning, threads }: CompileRequest, arch: ArchLevel): FoundTable | undefined {
  if (tuning === "none") return undefined;
  if (tuning !== null) return namedTable(tuning);
  return isCudaArch(arch) ? findCudaTables(arch) : findTables(deviceClass(arch, threads ?? availableParallelism()));
}

/** The request with what rows say of what it leaves open. What of a decode step is measured, lowering knows. */
function withMeasured(request: CompileRequest, arch: ArchLevel, table: TuningTable | undefined): CompileRequest {
  const { config, activations, limits, namesChunk, threads } = request;
  const problem = stepProblem(config, activations);
  return {
    ...request,
    ...(namesChunk ? {} : { limits: { ...limits, prefillChunk: selectChunk(table, arch, problem) } }),
    threads: threads ?? (selectThreads(table, arch, problem, availableParallelism()) || null),
  };
}

function lower(
  request: CompileRequest,
  model: LoadedModel,
  arch: ArchLevel,
  found: FoundTable | undefined,
  triton: boolean,
  options: CompileOptions,
): LoweredModel {
  const { config, activations, limits, deterministic, decode } = request;
  const input = {
    config,
    weights: model.weights,
    activations,
    arch,
    limits,
    deterministic,
    decode,
    tuning: found?.table,
    triton,
  };
  const { disablePasses, limit, dumpDir, levels, copyLimit } = options;
  return lowerModel(input, {
    ...(disablePasses ? { disablePasses } : {}),
    ...(limit === undefined ? {} : { limit }),
    ...(dumpDir === undefined ? {} : { dumpDir }),
    ...(levels ? { levels } : {}),
    ...(copyLimit === undefined ? {} : { copyLimit }),
  });
}

function summarize(
  { limits }: CompileRequest,
  lowered: LoweredModel,
): { readonly programs: readonly ProgramSummary[]; readonly memory: MemorySummary } {
  const programs = lowered.programs.map(({ kind, graph }) => ({
    name: graph.name,
    kind,
    launches: graph.nodes.filter(({ op }) => op === "call").length,
    arenaBytes: arenaBytes(graph),
  }));
  const kvBytesPerToken = lowered.kvBlockBytes / limits.blockSize;
  const memory = {
    weights: lowered.weights.bytes,
    arena: Math.max(...programs.map((program) => program.arenaBytes)),
    kvBytesPerToken,
    kv: kvBytesPerToken * limits.kvTokens,
  };
  return { programs, memory };
}

const NO_TRITON: { readonly triton?: Triton; readonly warnings: readonly Diagnostic[] } = { warnings: [] };

/** Asked for only where a measurement chose it: looking for it costs a start of Python. */
async function resolveTriton(table: TuningTable | undefined, { cacheRoot }: CompileOptions): Promise<typeof NO_TRITON> {
  const chosen = (table?.rows ?? []).filter(({ op, winner }) => isTriton(op, winner.kernel));
  if (chosen.length === 0) return NO_TRITON;
  const triton = await findTriton(cacheRoot);
  if (typeof triton !== "string") return { triton, warnings: [] };
  return { warnings: [tritonMissing(triton, [...new Set(chosen.map(({ op }) => op))])] };
}

interface BuildContext {
  readonly request: CompileRequest;
  readonly model: LoadedModel;
  readonly lowered: LoweredModel;
  readonly arch: ArchLevel;
  readonly triton: Triton | undefined;
  readonly summary: ReturnType<typeof summarize> & { readonly tuning: TuningSummary | null };
  readonly options: CompileOptions;
  readonly clock: Clock;
  readonly counts: { units: number; cached: number };
}

async function build(context: BuildContext, staged: StagedPackage): Promise<{ readonly buildId: string; readonly path: string }> {
  const { request, model, lowered, arch, options, clock } = context;
  const compiler = await findCompiler(options.cxx);
  const nvcc = isCudaArch(arch) ? await findNvcc({ cuda: options.cuda, cacheRoot: options.cacheRoot }) : undefined;
  const files = new BuildFiles(staged.dir);
  const packing = model.checkpoint ? resolvePackPlan(lowered.weights, model.checkpoint) : null;

  const { buildId, head } = await clock.run("generate", async () => {
    await copyFixedFiles(files, request.target);
    for (const [path, text] of kernelSources(lowered.kernels)) await files.write(path, text);
    if (nvcc && isCudaArch(arch)) {
      for (const [path, text] of extraCudaSources(arch, request.config.vocabSize, isSynthetic(request))) await files.write(path, text);
      const cubins = [...cudaUnits(lowered.kernels, isSynthetic(request)), ...tritonUnits(lowered.kernels)];
      await files.write(CUBIN_ASSEMBLY, cubinAssembly(cubins));
    }
    await files.write("exports.map", LIBRARY_EXPORTS);
    await files.write("CMakeLists.txt", cmakeLists(arch, { common: COMMON_FLAGS, kernel: nvcc ? NVCC_FLAGS : KERNEL_FLAGS }));
    await files.write("text.json", `${JSON.stringify(model.text.text)}\n`);
    await files.write("chat.json", `${JSON.stringify(model.text.chat ?? { format: 1, form: "ernie-text" })}\n`);
    if (model.text.tokenizerModel) await files.copy("tokenizer.model", model.text.tokenizerModel);
    // The plan without its build id and weights stands for what it is made of.
    const draft = planSource(context, "draft", { kind: "synthetic", seed: 0, fills: [] });
    const weights = model.checkpoint ? await fingerprintCheckpoint(model.checkpoint) : request.weights;
    const parts = {
      compiler: nvcc ? [compiler.identity, nvcc.identity, ...(context.triton ? [context.triton.identity] : [])] : compiler.identity,
      flags: [COMMON_FLAGS, nvcc ? NVCC_FLAGS : KERNEL_FLAGS, RUNTIME_FLAGS],
      sources: sourcesHash(files),
      draft,
      weights,
      text: model.text.text,
      chat: model.text.chat,
    };
    const id = sha256(JSON.stringify(parts)).slice(0, 32);
    const packed = packing ? layOutPackedHead(packing, { format: "ernie-compile", build_id: id }) : null;
    await files.write(PLAN_SOURCE, planSource(context, id, planWeights(context, packed)));
    return { buildId: id, head: packed };
  });

  // One failing ends the other: nobody waits for weights of a package that does not compile.
  const failure = new AbortController();
  const signal = options.signal ? AbortSignal.any([options.signal, failure.signal]) : failure.signal;
  const units = context.counts;
  const native: NativeOptions = {
    compiler,
    cache: new Cache(options.cacheRoot),
    signal,
    onUnit: ({ source, cached }) => {
      units.units++;
      if (cached) units.cached++;
      clock.step("compile", units.units, units.units, source);
    },
  };
  const tokenizer = model.text.tokenizerModel;
  const [objects, addon, textCheck] = await allOrFirst(failure, [
    clock.run("compile", () => compileAll(context, native, files, nvcc)),
    // Its compiler goes before the weights, since packing waits for it.
    buildAddon(native),
    tokenizer ? compileTextCheck(native) : Promise.resolve(undefined),
    packing && head ? pack(native, packing, head, files, clock) : Promise.resolve(),
  ] as const);

  await clock.run("link", async () => {
    const [library] = await Promise.all([
      linkLibrary(objects, native),
      tokenizer && textCheck ? checkText([textCheck, ...objects], staged.dir, tokenizer, native) : Promise.resolve(),
    ]);
    await files.copy("lib/libern_model.so", library.path);
    await files.copy("lib/ern_node.node", addon.path);
  });
  const path = await clock.run("write", async () => {
    const beside = rootFiles(await renderBindings(bindingsInput(context)));
    return await staged.commit(
      buildId.slice(0, 16),
      beside,
      (name) => `${JSON.stringify({ ...manifest(context, files, buildId, name), root: rootList(beside) }, null, 1)}\n`,
    );
  });
  return { buildId, path };
}

async function compileAll(
  { request, lowered, arch, triton }: BuildContext,
  native: NativeOptions,
  files: BuildFiles,
  nvcc: Nvcc | undefined,
) {
  const root = files.dir;
  if (!nvcc || !isCudaArch(arch)) {
    const [plan, rest] = await Promise.all([
      compilePlan(root, native),
      compileLibrary(root, lowered.kernels.map(kernelPath), arch, native),
    ]);
    return [...rest, plan];
  }
  const { compiler: host, cache, signal, onUnit } = native;
  // Kernels first: they take longest.
  const cubins = compileCubins(cudaUnits(lowered.kernels, isSynthetic(request)), { nvcc, host, cache, root, arch, signal, onUnit });
  const others = triton ? compileTriton(tritonUnits(lowered.kernels), { triton, cache, root, arch, signal, onUnit }) : [];
  const [first, second, plan, rest] = await Promise.all([
    cubins,
    others,
    compilePlan(root, native),
    compileLibrary(root, [], arch, native),
  ]);
  const made = [...first, ...second];
  for (const { name, path } of made) await files.copy(`kernels/${name}.cubin`, path);
  return [...rest, plan, await embedCubins(root, made, native)];
}

function isSynthetic({ weights }: CompileRequest): boolean {
  return weights.kind === "synthetic";
}

async function pack(native: NativeOptions, plan: PackPlan, head: PackedHead, files: BuildFiles, clock: Clock): Promise<void> {
  const packer = await buildPacker(native);
  const { signal } = native;
  await clock.run("pack", async () => {
    await runPacker({
      packer,
      plan,
      head,
      out: `${files.dir}/${WEIGHTS_FILE}`,
      onProgress: (done, total) => clock.step("pack", done, total),
      ...(signal ? { signal } : {}),
    });
    // Its sum is taken while compilers still run.
    await files.add(WEIGHTS_FILE);
  });
}

/** All results, or the first failure once everything has come to rest. */
async function allOrFirst<T extends readonly Promise<unknown>[]>(
  failure: AbortController,
  work: T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  for (const one of work) one.catch((error: unknown) => failure.abort(error));
  const results = await Promise.allSettled(work);
  if (results.some(({ status }) => status === "rejected")) throw failure.signal.reason;
  return results.map((result) => (result as PromiseFulfilledResult<unknown>).value) as { -readonly [K in keyof T]: Awaited<T[K]> };
}

function planWeights({ request, lowered }: BuildContext, head: PackedHead | null): PlanWeights {
  if (head) return { kind: "file", name: WEIGHTS_FILE, bytes: head.bytes, dataOffset: head.head.length, headerSha256: head.sha256 };
  const seed = request.weights.kind === "synthetic" ? request.weights.seed : 0;
  return { kind: "synthetic", seed, fills: lowered.weights.weights.map(syntheticFill) };
}

function planSource(context: BuildContext, buildId: string, weights: PlanWeights): string {
  const { request, lowered, arch } = context;
  return renderPlan({
    version: compilerVersion(),
    arch,
    buildId,
    info: {
      model: modelInfo(context),
      target: request.target,
      arch,
      activations: request.activations,
      version: compilerVersion(),
      promptOperations: promptOperations(countModel(request.config, context.model.weights.tied)),
      decodeBytes: lowered.decodeBytes[0],
      decodeBytesByBatch: lowered.decodeBytes,
      kvBytesPerToken: context.summary.memory.kvBytesPerToken,
    },
    vocabSize: request.config.vocabSize,
    limits: request.limits,
    threads: request.threads ?? 0,
    kvBlockBytes: lowered.kvBlockBytes,
    weightsBytes: lowered.weights.bytes,
    weights,
    programs: lowered.programs,
    kernels: lowered.kernels,
  });
}

function modelInfo({ request, model }: Pick<BuildContext, "request" | "model">) {
  const { config } = request;
  return {
    architecture: config.kind === "moe" ? "Ernie4_5_MoeForCausalLM" : "Ernie4_5ForCausalLM",
    parameters: countParameters(config, model.weights.tied),
    layers: config.layers,
    hiddenSize: config.hiddenSize,
    vocabSize: config.vocabSize,
    experts: config.moe?.experts ?? 0,
    takesImages: false,
  };
}

function bindingsInput(context: BuildContext): BindingsInput {
  const { limits } = context.request;
  return { ...modelInfo(context), maxContext: limits.maxContext, maxBatch: limits.maxBatch, tokens: tokenIds(context.request) };
}

function tokenIds({ config }: CompileRequest): { readonly [name: string]: number } {
  const ids = { bos: config.bosId, eos: config.eosIds[0] ?? null, pad: config.padId };
  return Object.fromEntries(Object.entries(ids).filter((entry): entry is [string, number] => entry[1] !== null));
}

function manifest(context: BuildContext, files: BuildFiles, buildId: string, build: string): object {
  const { request, lowered, arch, summary, model } = context;
  return {
    format: PACKAGE_FORMAT,
    compiler: { name: PACKAGE_MAKER, version: compilerVersion() },
    build,
    build_id: buildId,
    target: {
      target: request.target,
      arch,
      activations: request.activations,
      deterministic: request.deterministic,
      ...(lowered.kernels.some(({ kernel }) => kernel === PERSISTENT_DECODE) ? { decode: "persistent" } : {}),
      threads: request.threads ?? 0,
    },
    model: modelInfo(context),
    tokens: tokenIds(request),
    limits: request.limits,
    weights: request.weights,
    memory: { ...summary.memory, byContext: memoryByContext(request, summary.memory) },
    programs: summary.programs,
    tuning: summary.tuning,
    kernels: kernelList(lowered.kernels),
    copies: lowered.layouts.filter(({ formats }) => formats.length > 1),
    unused: model.unused,
    files: files.list(),
  };
}

/** Bytes with one sequence of so many tokens. */
function memoryByContext(
  { limits }: CompileRequest,
  { weights, arena, kvBytesPerToken }: MemorySummary,
): { readonly [tokens: string]: number } {
  const lengths = [1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072].filter((tokens) => tokens < limits.maxContext);
  return Object.fromEntries([...lengths, limits.maxContext].map((tokens) => [tokens, weights + arena + tokens * kvBytesPerToken]));
}

/** Times phases and tells of them. */
class Clock {
  readonly phases: { phase: Phase; ms: number }[] = [];

  constructor(
    private readonly onProgress: ((progress: Progress) => void) | undefined,
    private readonly signal: AbortSignal | undefined,
  ) {}

  async run<T>(phase: Phase, work: () => T | Promise<T>): Promise<T> {
    // Also for signals: a phase may have kept the thread, and then they are told only now.
    await new Promise(setImmediate);
    this.signal?.throwIfAborted();
    const start = performance.now();
    this.onProgress?.({ kind: "start", phase });
    const result = await work();
    const ms = performance.now() - start;
    this.phases.push({ phase, ms });
    this.onProgress?.({ kind: "end", phase, ms });
    return result;
  }

  step(phase: Phase, done: number, total: number, detail?: string): void {
    this.onProgress?.({ kind: "step", phase, done, total, ...(detail === undefined ? {} : { detail }) });
  }
}
