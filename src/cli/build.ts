/** `ernie-compile build`, the main job: a model becomes a package. */

import type { Command } from "commander";
import { type CompileResult, compile } from "../compile.js";
import { Diagnostic } from "../diagnostics.js";
import { type RequestFlags, resolveRequest } from "../frontend/model-json.js";
import { LEVELS } from "../ir/ops.js";
import { levelsUpTo } from "../lower.js";
import { interruptSignal } from "./interrupt.js";
import { integer } from "./numbers.js";
import { progressKind, withProgress } from "./progress.js";
import { bold, dim, formatBytes, formatMs, note, printJson, printLine } from "./terminal.js";

interface BuildFlags {
  out?: string;
  target?: string;
  arch?: string;
  activations?: string;
  deterministic?: boolean;
  decode?: string;
  weights?: string;
  threads?: number;
  maxContext?: number;
  maxBatch?: number;
  kvTokens?: number;
  prefillChunk?: number;
  blockSize?: number;
  tuning?: string;
  cxx?: string;
  cuda?: string;
  disablePass: string[];
  limit?: number;
  dryRun?: boolean;
  printIr?: string | true;
  dumpDir?: string;
  json?: boolean;
}

export function registerBuild(program: Command): void {
  program
    .command("build")
    .description("compile a model into a package")
    .argument("<input>", "model.json, config.json, model folder, or a preset such as ernie-4.5-0.3b")
    .option("-o, --out <dir>", "folder of the package")
    .option("--target <target>", "cpu or cuda")
    .option("--arch <arch>", "native, x86-64-v3, x86-64-v4, x86-64-v4-vnni or x86-64-v4-bf16; for cuda native, sm_80 or sm_90a")
    .option("--activations <type>", "bf16 or f32")
    .option("--deterministic", "bit-equal results whatever the batch, chunks and threads")
    .option("--decode <how>", "launches, or persistent: on a GPU, steps of up to 8 sequences of a dense model as one launch")
    .option("--weights <source>", "pack, or synthetic:<seed> for random weights made when the package is loaded")
    .option("--threads <n>", "threads of the engine", integer(1, 1024))
    .option("--max-context <n>", "longest prompt and completion together, in tokens", integer(1))
    .option("--max-batch <n>", "sequences in one step", integer(1))
    .option("--kv-tokens <n>", "tokens that the KV cache holds for all sequences together", integer(1))
    .option("--prefill-chunk <n>", "prompt tokens in one step", integer(1))
    .option("--block-size <n>", "tokens in a block of the KV cache, a multiple of 16", integer(1))
    .option("--tuning <file>", "table of measured kernel variants, or none (default: what was measured on machines like this one)")
    .option("--cxx <command>", "C++ compiler (default: CXX, then g++, then clang++)")
    .option("--cuda <dir>", "CUDA toolkit (default: CUDA_HOME, then PATH, then what `toolchain install cuda` made)")
    .option("--disable-pass <name>", "leave a pass out; may be given again", (name: string, all: string[]) => [...all, name], [])
    .option("--limit <n>", "stop the passes after n rewrites, to find the guilty one by halving", integer(0))
    .option("--dry-run", "stop before anything is written")
    .option("--print-ir [level]", `print the graph at a level (${LEVELS.join(", ")}), or at all`)
    .option("--dump-dir <dir>", "write the graph after each pass, numbered")
    .option("--json", "print one JSON object")
    .addHelpText(
      "after",
      "\nExamples:\n  ernie-compile build ./ERNIE-4.5-0.3B-PT -o ./ernie\n  ernie-compile build ernie-4.5-21b-a3b --weights synthetic:1 --dry-run\n  ernie-compile build ./model --dry-run --print-ir=fused",
    )
    .action(async (input: string, flags: BuildFlags) => {
      const json = flags.json ?? false;
      const request = await resolveRequest(input, requestFlags(flags));
      if (!flags.dryRun && request.out === null) {
        throw new Diagnostic({
          code: "usage",
          message: "found no output folder, expected one",
          place: "-o",
          hint: "-o ./ernie, or --dry-run to write nothing",
        });
      }
      const result = await withProgress(flags.dryRun || flags.printIr ? "none" : progressKind(json), (onProgress) =>
        compile(request, { ...compileFlags(flags), onProgress, signal: interruptSignal() }),
      );
      if (json) printJson(toJson(result));
      else {
        for (const text of Object.values(result.ir)) printLine(text.trimEnd());
        for (const warning of result.warnings) note(warning.message);
        if (!flags.printIr) report(result);
      }
    });
}

/** Flags that override the request of the same name. */
const REQUEST_FLAGS = [
  "target",
  "arch",
  "activations",
  "decode",
  "weights",
  "tuning",
  "out",
  "deterministic",
  "dryRun",
  "threads",
  "maxContext",
  "maxBatch",
  "kvTokens",
  "prefillChunk",
  "blockSize",
] as const satisfies readonly (keyof BuildFlags & keyof RequestFlags)[];

function requestFlags(flags: BuildFlags): RequestFlags {
  return Object.fromEntries(REQUEST_FLAGS.map((name) => [name, flags[name]]));
}

function compileFlags({ dryRun, disablePass, limit, dumpDir, printIr, cxx, cuda }: BuildFlags) {
  return {
    dryRun: dryRun ?? false,
    disablePasses: disablePass,
    ...(limit === undefined ? {} : { limit }),
    ...(dumpDir === undefined ? {} : { dumpDir }),
    ...(printIr === undefined ? {} : { levels: levelsUpTo(printIr === true ? undefined : printIr) }),
    ...(cxx === undefined ? {} : { cxx }),
    ...(cuda === undefined ? {} : { cuda }),
  };
}

function report({ out, build, arch, kernels, programs, memory, tuning, compiled, phases, unused }: CompileResult): void {
  const total = phases.reduce((sum, phase) => sum + phase.ms, 0);
  note("");
  if (out === null) note(bold(`nothing written (dry run), ${arch}`));
  else
    note(
      `${bold(out)} ${dim(`${build}, ${arch}, ${formatMs(total)} of work, ${compiled.units} units of which ${compiled.cached} from the cache`)}`,
    );
  note(`${kernels.length} kernels; ${programs.map((program) => `${program.name} ${program.launches} launches`).join(", ")}`);
  note(
    `memory: weights ${formatBytes(memory.weights)}, KV cache ${formatBytes(memory.kvBytesPerToken)} a token, scratch at most ${formatBytes(memory.arena)}`,
  );
  if (tuning) note(`kernels chosen by measurements of ${tuning.device} (${tuning.sources.map(({ from }) => from).join(", ")})`);
  const reasons = new Map<string, number>();
  for (const { reason } of unused) reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
  for (const [reason, count] of reasons) note(`${count} tensors not used: ${reason}`);
  if (out !== null) note(dim(`generated sources: ${out}/${build}/kernels and ${out}/${build}/src`));
}

function toJson({
  out,
  build,
  buildId,
  arch,
  kernels,
  programs,
  memory,
  tuning,
  compiled,
  phases,
  passes,
  warnings,
  unused,
  ir,
}: CompileResult): object {
  return {
    out,
    build,
    buildId,
    arch,
    kernels: kernels.map(({ name, kernel, params, launches }) => ({ name, kernel: kernel.name, op: kernel.op, params, launches })),
    programs,
    memory,
    tuning,
    compiled,
    phases,
    passes: passes.map(({ pass, changed, milliseconds, applied }) => ({ pass, changed, milliseconds, rewrites: applied.length })),
    warnings: warnings.map((warning) => warning.toJSON()),
    unused,
    ...(Object.keys(ir).length > 0 ? { ir } : {}),
  };
}
