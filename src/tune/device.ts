/** The class of a device: machines of one class share measurements. Of a CPU it is the level that kernels are compiled for, its model, and how many threads run them. */

import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism, release, type } from "node:os";
import type { ArchLevel, CpuArch } from "../toolchain/arch.js";
import type { Machine } from "./records.js";

const CPUINFO = "/proc/cpuinfo";
const VENDORS: { readonly [id: string]: string } = {
  AuthenticAMD: "amd",
  GenuineIntel: "intel",
  HygonGenuine: "hygon",
  CentaurHauls: "zhaoxin",
};

/** `x86-64-v4-bf16-amd-1a-02-2t`: level, maker, family and model in hexadecimal, threads. */
export function deviceClass(arch: CpuArch, threads: number, cpuinfo = readText(CPUINFO)): string {
  const [family, model] = ["cpu family", "model"].map((key) =>
    Number(field(cpuinfo, key) ?? "0")
      .toString(16)
      .padStart(2, "0"),
  );
  const vendor = VENDORS[field(cpuinfo, "vendor_id") ?? ""] ?? "cpu";
  return `${arch}-${vendor}-${family}-${model}-${threads}t`;
}

/** What a device class may look like; also the name of a file. */
export function isDeviceClass(name: string): boolean {
  return /^[a-z0-9][a-z0-9_.-]{0,99}$/.test(name);
}

export function describeMachine(arch: CpuArch, threads = availableParallelism()): Machine {
  const megahertz = Math.round(Number(field(readText(CPUINFO), "cpu MHz")));
  return { ...describeHost(arch, threads), cacheBytes: lastCacheBytes(), ...(megahertz > 0 ? { megahertz } : {}) };
}

/** What there is besides caches and clocks. */
export function describeHost(arch: ArchLevel, threads: number): Omit<Machine, "cacheBytes"> {
  return { cpu: field(readText(CPUINFO), "model name") ?? "unknown", threads, arch, system: `${type()} ${release()}` };
}

/** Of the largest cache that any core sees; 64 MiB where the system does not say. */
function lastCacheBytes(folder = "/sys/devices/system/cpu/cpu0/cache"): number {
  let most = 0;
  try {
    for (const name of readdirSync(folder)) {
      const [, count, unit = ""] = /^([0-9]+)([KMG]?)/.exec(readText(`${folder}/${name}/size`)) ?? [];
      if (count !== undefined) most = Math.max(most, Number(count) * 1024 ** " KMG".indexOf(unit || " "));
    }
  } catch {
    // Not told.
  }
  return most || 64 * 2 ** 20;
}

function field(cpuinfo: string, key: string): string | undefined {
  return new RegExp(`^${key}\\s*:\\s*(.+)$`, "m").exec(cpuinfo)?.[1]?.trim();
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
