/** The GPU that is tuned for: what its driver says of it, and the class of device that it is. */

import { availableParallelism } from "node:os";
import { execa } from "execa";
import { Diagnostic } from "../diagnostics.js";
import type { CudaArch } from "../toolchain/arch.js";
import { describeHost } from "./device.js";
import { capabilityOf } from "./local-cuda.js";
import type { Machine } from "./records.js";

export interface Gpu {
  readonly device: string;
  readonly machine: Machine;
  /** Bytes of its memory that are free. */
  readonly free: number;
}

/** `sm_90a-nvidia-h100-80gb-hbm3`: what code is for, and the GPU's name. */
export function gpuClass(arch: CudaArch, name: string): string {
  const words = name.toLowerCase().match(/[a-z0-9]+/g) ?? [];
  return [arch, ...(words[0] === "nvidia" ? [] : ["gpu"]), ...words].join("-").slice(0, 100);
}

/** The first GPU of this machine that runs code for `arch`. `program` is runtime/tools/tune_cuda.cpp. */
export async function describeGpu(program: string, arch: CudaArch): Promise<Gpu> {
  const { stdout } = await execa(program, ["device", ...capabilityOf(arch)], { reject: false, timeout: 60_000 });
  const lines = stdout.split("\n");
  if (lines.at(-1) !== "end") throw noGpu(lines.find((line) => /^(error|failed) /.test(line))?.replace(/^\w+ /, ""));
  const said = new Map(lines.map((line) => [line.slice(0, line.indexOf(" ")), line.slice(line.indexOf(" ") + 1)]));
  const number = (key: string): number => Number(said.get(key) ?? 0);
  const name = said.get("name") ?? "unknown";
  const driver = said.get("driver");
  const machine: Machine = {
    ...describeHost(arch, availableParallelism()),
    gpu: name,
    cacheBytes: number("cache"),
    driver: [driver, `CUDA ${said.get("cuda")}`].filter(Boolean).join(", "),
    ...(number("megahertz") > 0 ? { gpuMegahertz: number("megahertz") } : {}),
    ...(number("memory_megahertz") > 0 ? { memoryMegahertz: number("memory_megahertz") } : {}),
  };
  return { device: gpuClass(arch, name), machine, free: number("free") };
}

function noGpu(said = "the program that measures did not start"): Diagnostic {
  return new Diagnostic({
    code: "tune-gpu",
    kind: "environment",
    message: `this machine cannot measure kernels for GPUs: ${said.replace(/^this package/, "a kernel")}`,
    place: "--target cuda",
    hint: "tune on a machine whose GPU runs the arch; `ernie-compile tune list` needs none",
  });
}
