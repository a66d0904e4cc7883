/**
 * Packages that differ in a choice above a kernel, on this machine: each is built as `build` would with the variant's row in its table, of a model of the problem's
 * sizes with synthetic weights, and loaded by a process (runtime/tools/tune_step.mjs).
 */

import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compile } from "../compile.js";
import { parseConfig } from "../frontend/config.js";
import { countModel } from "../frontend/count.js";
import { resolveRequest } from "../frontend/model-json.js";
import { stepConfig } from "../frontend/step-problem.js";
import type { KernelParams } from "../kernels/kernel-def.js";
import type { TuningRow } from "../kernels/tuning.js";
import { projectPath } from "../project.js";
import { type ArchLevel, targetOf } from "../toolchain/arch.js";
import { Harness } from "./harness.js";
import type { Configuration } from "./space.js";
import type { StepPlatform } from "./step-backend.js";
import { KERNEL_CHOICE, type Task } from "./task.js";

export interface StepOptions {
  readonly arch: ArchLevel;
  /** Of the machine; an engine has no more. */
  readonly threads: number;
  readonly cacheRoot: string;
  readonly signal?: AbortSignal | undefined;
  readonly cxx?: string | undefined;
  readonly cuda?: string | undefined;
  /** What weights may take. */
  readonly memory: () => number;
  /** What there is for builds besides the sweep's own. */
  readonly rows: readonly TuningRow[];
  /** Ends what else has the device. */
  readonly pause: () => Promise<void>;
}

/** Of one command: prompts of a large model, on few cores. */
const DEADLINE_MS = { cpu: 300_000, cuda: 60_000 } as const;
/** Packages that are loaded at a time: a task's finalists. */
const LOADED = 4;
const MIN_CONTEXT = 2048;

export async function localSteps(options: StepOptions): Promise<StepPlatform> {
  const { arch, cacheRoot, signal, threads } = options;
  const target = targetOf(arch);
  const work = await mkdtemp(join(tmpdir(), "ernie-compile-steps-"));
  let packages = 0;
  return {
    signal,
    build: async (task, variant, rows) => {
      const name = `${packages++}`;
      const config = join(work, `${name}.json`);
      await writeFile(config, JSON.stringify(stepConfig(task.problem, layersThatFit(task.problem, options.memory() / LOADED))));
      const decode = task.op === "step_decode";
      const request = await resolveRequest(config, {
        target,
        arch,
        activations: task.problem.x === "f32" ? "f32" : "bf16",
        weights: "synthetic:1",
        maxBatch: decode ? task.rows : 1,
        // Room for the prompt and what is generated, in whole blocks.
        maxContext: Math.max(MIN_CONTEXT, decode ? 0 : task.rows + 512),
        out: join(work, name),
        ...(task.op === "step_request" || target === "cuda" ? {} : { threads }),
      });
      const { out } = await compile(request, {
        table: { device: task.op, rows: [rowOf(task, variant), ...rows, ...options.rows] },
        cacheRoot,
        ...(options.cxx === undefined ? {} : { cxx: options.cxx }),
        ...(options.cuda === undefined ? {} : { cuda: options.cuda }),
        ...(signal ? { signal } : {}),
      });
      return out as string;
    },
    start: (task, folder) =>
      Harness.serve(
        process.execPath,
        [projectPath("runtime/tools/tune_step.mjs"), folder, task.op, String(task.rows)],
        DEADLINE_MS[target],
      ),
    alone: async (measure) => {
      await options.pause();
      const unlock = await lockDevice(join(cacheRoot, "device.lock"));
      try {
        return await measure();
      } finally {
        unlock();
      }
    },
    close: () => rm(work, { recursive: true, force: true }),
  };
}

/** The variant as a table has it; a build takes it whatever its default is. */
function rowOf({ op, kernel, problem, rows }: Task, { [KERNEL_CHOICE]: name, ...tuned }: Configuration): TuningRow {
  return { op, problem, layouts: {}, rows, winner: { kernel: String(name ?? kernel.name), params: tuned as KernelParams, seconds: 1 } };
}

/** All, or as many as leave room for the others that are compared: a choice that is right for some layers is right for more of them. */
export function layersThatFit(problem: KernelParams, bytes: number): number {
  const layers = Number(problem.layers);
  const first = Number(problem.dense_layers ?? 0) + 1;
  const size = (count: number): number => countModel(parseConfig(stepConfig(problem, count), "problem").config).bytes;
  if (layers <= first || size(layers) <= bytes) return layers;
  const each = (size(layers) - size(first)) / (layers - first);
  return Math.min(layers, Math.max(first + 1, first + Math.floor((bytes - size(first)) / each)));
}

/** As processes of kernels take it; without util-linux's program nobody is kept out. Gives what lets go of it. */
async function lockDevice(path: string): Promise<() => void> {
  const child = spawn("flock", [path, "sh", "-c", "echo; cat"], { stdio: ["pipe", "pipe", "ignore"] });
  await new Promise<void>((resolve) => {
    child.on("error", () => resolve());
    child.on("close", () => resolve());
    child.stdout.once("data", () => resolve());
  });
  child.stdin.on("error", () => undefined);
  return () => child.stdin.end();
}
