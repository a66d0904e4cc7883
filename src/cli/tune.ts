/** `ernie-compile tune`: finds the fastest right variant of each kernel that a model needs, on the machine it runs on, and keeps it for later builds. */

import { availableParallelism } from "node:os";
import type { Command } from "commander";
import { InvalidArgumentError } from "commander";
import { Diagnostic } from "../diagnostics.js";
import { loadModel } from "../frontend/load-model.js";
import { type CompileRequest, type Limits, resolveRequest } from "../frontend/model-json.js";
import { kernelGraphs } from "../lower.js";
import { type ArchLevel, isCpuArch, isCudaArch, resolveArch } from "../toolchain/arch.js";
import { bucketSizes, matching, modelTasks, shardOf, stepTasks } from "../tune/model-tasks.js";
import { ReplayBackend } from "../tune/replay.js";
import { type TuneRun, tune } from "../tune/run.js";
import { DEFAULT_STRATEGY, STRATEGIES } from "../tune/strategies/index.js";
import { userTablePath } from "../tune/tables.js";
import type { Task } from "../tune/task.js";
import { interruptSignal } from "./interrupt.js";
import { integer, integerList, oneOf } from "./numbers.js";
import { note, printJson } from "./terminal.js";
import { registerExport } from "./tune-export.js";
import { registerTuneList } from "./tune-list.js";
import { registerTuneMerge } from "./tune-merge.js";
import { type TunePlatform, tunePlatform } from "./tune-platform.js";
import { registerReport } from "./tune-report.js";
import { registerTuneShow } from "./tune-show.js";
import { registerSimulate } from "./tune-simulate.js";
import { resultLines, SweepView, tableJson } from "./tune-view.js";
import { registerTuneWorker } from "./tune-worker.js";

export interface ModelFlags {
  target?: string;
  arch?: string;
  quantization?: string;
  batch?: number[];
  tokens?: number[];
  kernel: string;
  threads?: number;
}

interface TuneFlags extends ModelFlags {
  strategy: string;
  trials: number;
  time?: number;
  seed: number;
  journal?: string;
  resume?: boolean;
  shard?: { index: number; count: number };
  queue?: string;
  out?: string;
  replay?: string;
  replayDelay: number;
  patience: number;
  cxx?: string;
  cuda?: string;
  json?: boolean;
}

/** Where a trial budget is not said, time is what ends a sweep, or the space. */
const DEFAULT_TRIALS = 200;
/** Trials under way at once with workers, whatever their number: what is asked next must not depend on it. */
const QUEUE_TASKS = 16;

export function registerTune(program: Command): void {
  const command = withModelOptions(
    program
      .command("tune")
      .description("find the fastest variant of every kernel that a model needs, and of its steps, by measuring")
      .argument("<input>", "model.json, config.json, model folder, or a preset such as ernie-4.5-0.3b"),
  )
    .option(
      "--strategy <name>",
      `one of ${STRATEGIES.map(({ name }) => name).join(", ")}`,
      oneOf(...STRATEGIES.map(({ name }) => name)),
      DEFAULT_STRATEGY.name,
    )
    .option("--trials <n>", "variants of each task, at most", integer(1), DEFAULT_TRIALS)
    .option("--time <span>", "of the whole sweep: 90s, 10m, 2h", duration)
    .option("--seed <n>", "of the search and of the numbers that kernels are tried on", integer(0), 1)
    .option("--journal <file>", "where measurements are written down as they come (default: tune-<device class>.jsonl)")
    .option("--resume", "go on with what the journal has")
    .option("--shard <i/n>", "this part of the tasks, from 1 to n; `tune merge` puts the parts together", shard)
    .option("--queue <url>", "have `tune worker`s measure, by way of this Redis or Valkey: redis://host:6379")
    .option("--patience <s>", "how long the server of --queue may be gone", integer(1, 86_400), 300)
    .option("-o, --out <file>", "table to write (default: the user's own, which builds read)")
    .option("--cxx <command>", "C++ compiler (default: CXX, then g++, then clang++)")
    .option("--cuda <dir>", "CUDA toolkit, as for build")
    .option("--replay <journal>", "take measurements from a journal instead of the machine")
    .option("--replay-delay <ms>", "as if each took so long", integer(0, 60_000), 0)
    .option("--json", "print one JSON object")
    .addHelpText(
      "after",
      "\nExamples:\n  ernie-compile tune ernie-4.5-0.3b --time 10m\n  ernie-compile tune ./model --batch 1,8 --tokens 512 --kernel 'linear*' --resume\n  ernie-compile tune ernie-4.5-0.3b --target cuda --batch 1,16 --tokens 2048 --time 3m\n  ernie-compile tune ./model --shard 3/8 --journal part3.jsonl && ernie-compile tune merge part*.jsonl",
    )
    .action(async (input: string, flags: TuneFlags) => {
      const run = await prepare(input, flags);
      const view = new SweepView(run.tasks.length, flags.json ?? false);
      const table = await tune({ ...run, onEvent: (event) => view.show(event), onNote: note, signal: interruptSignal() }).finally(() =>
        view.end(),
      );
      if (flags.json) printJson({ journal: run.journal, table: run.table, ...tableJson(table) });
      else {
        for (const line of resultLines(table)) note(line);
        note(`${run.table}: builds for ${run.device} use it from now on; measurements are in ${run.journal}`);
      }
    });
  for (const register of [
    registerTuneList,
    registerTuneShow,
    registerTuneMerge,
    registerTuneWorker,
    registerReport,
    registerExport,
    registerSimulate,
  ])
    register(command);
}

export function withModelOptions(command: Command): Command {
  return command
    .option("--target <target>", "cpu or cuda")
    .option("--arch <arch>", "level to tune for; this machine must have it (default: native)")
    .option("-q, --quantization <scheme>", "as for build")
    .option("--batch <list>", "sequences of decode steps, e.g. 1,8,64 (default: the buckets of a build)", integerList(1, 4096))
    .option("--tokens <list>", "tokens of prefill steps, e.g. 1,512 (default: the buckets of a build)", integerList(1, 65536))
    .option("--kernel <glob>", "only kernels of this name, or ops; step*: choices above kernels", "*")
    .option("--threads <n>", "threads that run a kernel (default: all)", integer(1, 1024));
}

/** The tasks that the flags ask for, and the request that they came from. */
export async function tasksFor(
  input: string,
  flags: ModelFlags,
): Promise<{ readonly tasks: readonly Task[]; readonly arch: ArchLevel; readonly request: CompileRequest }> {
  if (flags.quantization !== undefined)
    throw new Diagnostic({
      code: "request-quantization-unsupported",
      kind: "unsupported",
      message: "found a quantization, expected none",
      place: "-q",
      hint: "leave it out: weights stay bf16",
    });
  const { target, arch: level, threads } = flags;
  const request = await resolveRequest(input, { target, arch: level, threads, dryRun: true });
  const arch = resolveArch(request.arch, request.target);
  const { weights } = await loadModel(request);
  const limits = limitsFor(request.limits, flags);
  const graphs = kernelGraphs({ ...request, limits, weights, arch, tuning: undefined });
  const own = bucketSizes(graphs);
  const sizes = { batches: flags.batch ?? (flags.tokens ? [] : own.batches), tokens: flags.tokens ?? (flags.batch ? [] : own.tokens) };
  const cores = threads ?? request.threads ?? availableParallelism();
  // Kernels first: packages are then measured with the fastest of them.
  const tasks = [...modelTasks(graphs, sizes, arch), ...stepTasks(request, sizes, arch, cores)];
  return { tasks: matching(tasks, flags.kernel), arch, request };
}

/** Buckets that hold the sizes that are asked for: what a bucket fuses and which kernels it has depends on its size. */
function limitsFor(limits: Limits, { batch = [], tokens = [] }: ModelFlags): Limits {
  return { ...limits, maxBatch: Math.max(limits.maxBatch, ...batch), prefillChunk: Math.max(limits.prefillChunk, ...tokens) };
}

async function prepare(input: string, flags: TuneFlags): Promise<TuneRun> {
  const replay = flags.replay === undefined ? undefined : await ReplayBackend.open(flags.replay, flags.replayDelay);
  const recorded = replay?.sweep.machine;
  const {
    tasks: all,
    arch,
    request,
  } = await tasksFor(input, recorded ? { threads: recorded.threads, ...flags, ...levelOf(recorded.arch) } : flags);
  // With a queue it is the workers that replay; here a recording says only for which device class and build.
  const platform = replay ? undefined : await tunePlatform(arch, { ...flags, threads: request.threads ?? undefined });
  const { machine, device, build } = replay?.sweep ?? (platform as TunePlatform);
  const tasks = flags.shard ? shardOf(all, flags.shard.index, flags.shard.count) : all;
  const common = {
    tasks,
    arch,
    device,
    machine,
    build,
    strategy: STRATEGIES.find(({ name }) => name === flags.strategy) ?? DEFAULT_STRATEGY,
    seed: flags.seed,
    trials: flags.trials,
    seconds: flags.time,
    journal: flags.journal ?? `tune-${device}.jsonl`,
    resume: flags.resume ?? false,
    table: flags.out ?? userTablePath(device),
  };
  if (replay && flags.queue === undefined) return { ...common, backend: replay };
  if (flags.queue !== undefined) {
    const { openQueue } = await import("../tune/queue.js");
    const backend = await openQueue({ url: flags.queue, device, build, onNote: note, patience: flags.patience });
    return { ...common, backend, parallel: QUEUE_TASKS };
  }
  const { parallel, limits, open } = platform as TunePlatform;
  return { ...common, parallel, limits: await limits(), backend: await open() };
}

/** The flags that a recording's level stands for. */
function levelOf(arch: string): { readonly target?: string; readonly arch?: string } {
  return isCudaArch(arch) ? { target: "cuda", arch } : isCpuArch(arch) ? { arch } : {};
}

function duration(text: string): number {
  const [, number, unit = ""] = /^([0-9]+(?:\.[0-9]+)?)(s|m|h)?$/.exec(text.trim()) ?? [];
  const seconds = Number(number) * ({ "": 1, s: 1, m: 60, h: 3600 }[unit] ?? Number.NaN);
  if (!(seconds > 0 && seconds <= 1e7)) throw new InvalidArgumentError("expected a time above zero such as 90s, 10m or 2h.");
  return seconds;
}

function shard(text: string): { index: number; count: number } {
  const [, index, count] = /^([0-9]+)\/([0-9]+)$/.exec(text) ?? [];
  const [i, n] = [Number(index), Number(count)];
  if (!(i >= 1 && i <= n && n <= 100_000)) throw new InvalidArgumentError("expected i/n with i from 1 to n, e.g. 3/8.");
  return { index: i, count: n };
}
