/** `ernie-compile tune worker`: measures what a sweep on some other machine asks for, by way of a queue. */

import type { Command } from "commander";
import { resolveArch } from "../toolchain/arch.js";
import type { Backend } from "../tune/backend.js";
import { ReplayBackend } from "../tune/replay.js";
import { work } from "../tune/worker.js";
import { interruptSignal } from "./interrupt.js";
import { integer, oneOf } from "./numbers.js";
import { note } from "./terminal.js";
import { tunePlatform } from "./tune-platform.js";
import { taskName } from "./tune-view.js";

interface WorkerFlags {
  target: "cpu" | "cuda";
  arch?: string;
  threads?: number;
  queue: string;
  replay?: string;
  replayDelay: number;
  cxx?: string;
  cuda?: string;
  patience: number;
  lostAfter: number;
}

export function registerTuneWorker(tune: Command): void {
  tune
    .command("worker")
    .description("measure what sweeps ask for that run with the same --queue, until interrupted")
    .requiredOption("--queue <url>", "Redis or Valkey: redis://host:6379")
    .option("--target <target>", "cpu or cuda", oneOf("cpu", "cuda"), "cpu")
    .option("--arch <arch>", "level to measure for; this machine must have it (default: native)")
    .option("--threads <n>", "threads that run a kernel (default: all)", integer(1, 1024))
    .option("--cxx <command>", "C++ compiler (default: CXX, then g++, then clang++)")
    .option("--cuda <dir>", "CUDA toolkit, as for build")
    .option("--patience <s>", "how long the server may be gone", integer(1, 86_400), 300)
    .option("--lost-after <s>", "when a worker that says nothing is given up", integer(1, 3600), 20)
    .option("--replay <journal>", "take measurements from a journal instead of the machine")
    .option("--replay-delay <ms>", "as if each took so long", integer(0, 60_000), 0)
    .addHelpText(
      "after",
      "\nTakes only jobs of this machine's device class and of this very build.\n\nExample:\n  ernie-compile tune worker --queue redis://tuner:6379",
    )
    .action(async (flags: WorkerFlags) => {
      const { device, build, backend } = await openBackend(flags);
      note(`${device}, build ${build}: waiting for jobs`);
      await work({
        url: flags.queue,
        device,
        build,
        backend,
        onNote: note,
        onJob: ({ kind, task }, ms) => note(`${kind} of ${taskName(task)}: ${Math.round(ms)} ms`),
        signal: interruptSignal(),
        patience: flags.patience,
        lostAfterMs: flags.lostAfter * 1000,
      });
    });
}

async function openBackend(flags: WorkerFlags): Promise<{ readonly device: string; readonly build: string; readonly backend: Backend }> {
  if (flags.replay !== undefined) {
    const backend = await ReplayBackend.open(flags.replay, flags.replayDelay);
    return { device: backend.sweep.device, build: backend.sweep.build, backend };
  }
  const { device, build, open } = await tunePlatform(resolveArch(flags.arch ?? "native", flags.target), flags);
  return { device, build, backend: await open() };
}
