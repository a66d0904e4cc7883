/**
 * `ernie-compile bench`: llama-bench's rows (pp512, tg128) and columns for a compiled package, plus the share of the machine's measured
 * read bandwidth, or its GPU's copy bandwidth, that decoding reaches, and of its GPU's measured rate of matrix products that prefill does. Figures are mean and
 * standard deviation over the repeats; times are the engine's own.
 */

import type { Command } from "commander";
import type { Engine, EngineInfo, Finish, StepProfile } from "../host/api.js";
import type { CudaArch } from "../toolchain/arch.js";
import { measureBandwidth, measureGpu } from "../toolchain/bandwidth.js";
import { integer, oneOf } from "./numbers.js";
import { withEngine } from "./package-folder.js";
import { formatBytes, note, printLine } from "./terminal.js";

interface BenchFlags {
  prompt: number;
  generate: number;
  depth: number;
  repeats: number;
  batch: number;
  threads?: number;
  format: "md" | "json" | "csv";
  profile?: boolean;
}

export interface BenchRow {
  model: string;
  size: number;
  params: number;
  backend: string;
  threads: number;
  /** `pp512`, `tg128`, with ` @ d1024` at a depth and ` b8` for a batch. */
  test: string;
  /** Tokens per second, one for each repeat. */
  samples: number[];
  mean: number;
  deviation: number;
  /** Bytes that the step must read (weights and cache) times steps per second, over the measured bandwidth; decode rows only. */
  bandwidthShare: number | null;
  /** Operations of the prompt's matrix products (attention and head not counted) a second, over the GPU's measured rate; prefill rows on a GPU only. */
  matrixShare: number | null;
}

/** What this machine can do at most. */
interface Limits {
  readonly bandwidth: number;
  /** Operations of bf16 products a second; 0: not measured. */
  readonly matrixRate: number;
}

export function registerBench(program: Command): void {
  program
    .command("bench")
    .description("measure prefill and decode speed of a compiled package")
    .argument("<package>", "folder that `build` made")
    .option("-p, --prompt <n>", "prompt tokens of the pp row; 0 leaves it out", integer(0), 512)
    .option("-n, --generate <n>", "generated tokens of the tg row; 0 leaves it out", integer(0), 128)
    .option("-d, --depth <n>", "tokens in the cache before the measured ones", integer(0), 0)
    .option("-r, --repeats <n>", "repeats of each row", integer(1, 1000), 5)
    .option("-b, --batch <n>", "sequences at a time", integer(1, 1024), 1)
    .option("-t, --threads <n>", "threads of the engine", integer(1, 1024))
    .option("--profile", "what each kernel takes of the steps that the rows are made of")
    .option("--format <format>", "md, json or csv", oneOf("md", "json", "csv"), "md" as const)
    .addHelpText("after", "\nExample:\n  ernie-compile bench ./ernie -p 512 -n 128 -r 5 --format json")
    .action(async (folder: string, flags: BenchFlags) => {
      await withEngine(folder, flags.threads === undefined ? {} : { threads: flags.threads }, async (engine) => {
        const limits = await measuredLimits(engine.info);
        const rows: BenchRow[] = [];
        if (flags.prompt > 0) rows.push(await prefillRow(engine, flags, limits));
        if (flags.generate > 0) rows.push(await decodeRow(engine, flags, limits));
        const profiles = flags.profile ? await stepProfiles(engine, flags) : undefined;
        printLine(render(rows, flags.format, profiles));
      });
    });
}

/** A step of the pp row, as large as the engine makes them, and one in the middle of the tg row. */
async function stepProfiles(engine: Engine, { prompt, generate, depth, batch }: BenchFlags): Promise<readonly NamedProfile[]> {
  const profiles: NamedProfile[] = [];
  if (prompt > 0) {
    const rows = Math.max(1, Math.min(prompt, Math.floor(engine.info.prefillChunk / batch)));
    profiles.push({ step: `pp, ${batch} x ${rows} rows`, ...(await engine.profile({ batch, rows, context: depth + rows })) });
  }
  if (generate > 0) {
    const context = depth + 1 + Math.floor(generate / 2);
    profiles.push({ step: `tg, ${batch} at ${context} tokens`, ...(await engine.profile({ batch, rows: 1, context })) });
  }
  return profiles;
}

interface NamedProfile extends StepProfile {
  readonly step: string;
}

/** Decoding is held against how fast the memory is that the weights lie in, prefill against the GPU's matrix products. */
async function measuredLimits({ target, arch, threads }: EngineInfo): Promise<Limits> {
  if (target === "cuda") {
    const { bytesPerSecond, operationsPerSecond, megahertz, memoryMegahertz } = await measureGpu(arch as CudaArch);
    const products =
      operationsPerSecond > 0 ? `bf16 products ${(operationsPerSecond / 1e12).toFixed(0)} TFLOP/s` : "no nvcc to measure products";
    const clocks = megahertz > 0 ? `, at clocks of ${megahertz} MHz, memory ${memoryMegahertz} MHz` : "";
    note(`the GPU at most: copies ${formatBytes(bytesPerSecond)}/s, ${products}${clocks}`);
    return { bandwidth: bytesPerSecond, matrixRate: operationsPerSecond };
  }
  const bandwidth = await measureBandwidth(threads);
  note(`read bandwidth with ${threads} threads: ${formatBytes(bandwidth)}/s`);
  return { bandwidth, matrixRate: 0 };
}

/** Ids that no earlier run used at the same place, so that nothing comes from the prefix cache. */
let fresh = 0;
function randomIds(count: number, vocab: number): number[] {
  fresh++;
  let state = (fresh * 2654435761) >>> 0;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 3 + (state % Math.min(vocab - 3, 90_000));
  });
}

interface Timed {
  firstMs: number;
  endMs: number;
  finish: Finish;
}

/** Runs one request to its end; times are wall time since the call. */
async function timed(engine: Engine, ids: readonly number[], tokens: number): Promise<Timed> {
  const start = performance.now();
  let firstMs = 0;
  for await (const piece of engine.generate(ids, { maxTokens: tokens, minTokens: tokens, temperature: 0 })) {
    if (firstMs === 0 && piece.ids.length > 0) firstMs = performance.now() - start;
    if ("finishReason" in piece) return { firstMs, endMs: performance.now() - start, finish: piece };
  }
  throw new Error("a generation ended without its last item");
}

async function prefillRow(engine: Engine, { prompt, repeats, batch, depth }: BenchFlags, { matrixRate }: Limits): Promise<BenchRow> {
  const vocab = engine.info.model.vocabSize;
  const samples: number[] = [];
  for (let i = -1; i < repeats; i++) {
    const prefixes = await Promise.all(Array.from({ length: batch }, () => warmPrefix(engine, depth)));
    const runs = await Promise.all(prefixes.map((prefix) => timed(engine, [...prefix, ...randomIds(prompt, vocab)], 1)));
    const ms = batch === 1 ? (runs[0] as Timed).finish.timings.prefill : Math.max(...runs.map((run) => run.endMs));
    if (i >= 0) samples.push((1000 * batch * prompt) / ms);
  }
  const matrixShare = matrixRate > 0 ? (mean(samples) * engine.info.promptOperations) / matrixRate : null;
  return row(engine.info, `pp${prompt}`, { batch, depth }, samples, { bandwidthShare: null, matrixShare });
}

async function decodeRow(engine: Engine, { generate, repeats, batch, depth }: BenchFlags, { bandwidth }: Limits): Promise<BenchRow> {
  const samples: number[] = [];
  for (let i = -1; i < repeats; i++) {
    const prefixes = await Promise.all(Array.from({ length: batch }, () => warmPrefix(engine, depth)));
    const runs = await Promise.all(
      prefixes.map((prefix) => timed(engine, [...prefix, ...randomIds(1, engine.info.model.vocabSize)], generate + 1)),
    );
    const ms =
      batch === 1
        ? (runs[0] as Timed).finish.timings.decode
        : Math.max(...runs.map((run) => run.endMs)) - Math.max(...runs.map((run) => run.firstMs));
    if (i >= 0) samples.push((1000 * batch * generate) / ms);
  }
  const { decodeBytesByBatch, kvBytesPerToken } = engine.info;
  const context = depth + 1 + generate / 2;
  const weights = decodeBytesByBatch[Math.min(Math.ceil(Math.log2(batch)), decodeBytesByBatch.length - 1)] ?? engine.info.decodeBytes;
  const bytesPerStep = weights + batch * context * kvBytesPerToken;
  const bandwidthShare = (mean(samples) / batch) * (bytesPerStep / bandwidth);
  return row(engine.info, `tg${generate}`, { batch, depth }, samples, { bandwidthShare, matrixShare: null });
}

/** Puts `depth` tokens into the prefix cache, and gives them. */
async function warmPrefix(engine: Engine, depth: number): Promise<number[]> {
  if (depth === 0) return [];
  const ids = randomIds(depth, engine.info.model.vocabSize);
  await timed(engine, ids, 1);
  return ids;
}

function row(
  info: EngineInfo,
  test: string,
  at: { batch: number; depth: number },
  samples: number[],
  shares: Pick<BenchRow, "bandwidthShare" | "matrixShare">,
): BenchRow {
  const name = `${test}${at.depth > 0 ? ` @ d${at.depth}` : ""}${at.batch > 1 ? ` b${at.batch}` : ""}`;
  const average = mean(samples);
  const variance = samples.reduce((sum, value) => sum + (value - average) ** 2, 0) / Math.max(1, samples.length - 1);
  return {
    model: `${info.model.architecture} ${info.activations}`,
    size: info.weightBytes,
    params: info.model.parameters,
    backend: `${info.target} ${info.arch}`,
    threads: info.threads,
    test: name,
    samples,
    mean: average,
    deviation: Math.sqrt(variance),
    ...shares,
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

const COLUMNS = ["model", "size", "params", "backend", "threads", "test", "t/s", "of bandwidth"];
/** Of rows on a GPU. */
const MATRIX_COLUMN = "of matrix rate";

/** A table a step, what takes longest first: `share` is of the sum over kernels, which launches that overlap make larger than the step. */
function profileTables(profiles: readonly NamedProfile[]): string {
  return profiles
    .map(({ step, stepUs, kernels }) => {
      const sum = kernels.reduce((total, { us }) => total + us, 0);
      const lines = [...kernels]
        .sort((a, b) => b.us - a.us)
        .map(({ kernel, launches, us }) => [
          kernel,
          String(launches),
          us.toFixed(1),
          (us / launches).toFixed(2),
          `${((100 * us) / sum).toFixed(1)} %`,
        ]);
      const table = [PROFILE_COLUMNS, PROFILE_COLUMNS.map(() => "---"), ...lines].map((line) => `| ${line.join(" | ")} |`);
      return [`\n${step}: ${stepUs.toFixed(1)} us a step; one launch after the other ${sum.toFixed(1)} us`, "", ...table].join("\n");
    })
    .join("\n");
}

const PROFILE_COLUMNS = ["kernel", "launches", "us", "us each", "share"];

function percent(share: number | null): string {
  return share === null ? "" : `${(100 * share).toFixed(1)} %`;
}

/** The rows alone are an array in JSON, as ever; with profiles an object has both. */
function render(rows: readonly BenchRow[], format: BenchFlags["format"], profiles?: readonly NamedProfile[]): string {
  if (format === "json") return JSON.stringify(profiles ? { rows, profiles } : rows, null, 2);
  const gpu = rows.some(({ backend }) => backend.startsWith("cuda"));
  const columns = gpu ? [...COLUMNS, MATRIX_COLUMN] : COLUMNS;
  const cells = rows.map((r) => [
    r.model,
    formatBytes(r.size),
    `${(r.params / 1e6).toFixed(2)} M`,
    r.backend,
    String(r.threads),
    r.test,
    `${r.mean.toFixed(2)} ± ${r.deviation.toFixed(2)}`,
    percent(r.bandwidthShare),
    ...(gpu ? [percent(r.matrixShare)] : []),
  ]);
  const tables = profiles ? profileTables(profiles) : "";
  if (format === "csv" && profiles) note(tables);
  if (format === "csv") return [columns, ...cells].map((line) => line.map((cell) => JSON.stringify(cell)).join(",")).join("\n");
  const lines = [columns, columns.map(() => "---"), ...cells];
  return [...lines.map((line) => `| ${line.join(" | ")} |`), ...(profiles ? [tables] : [])].join("\n");
}
