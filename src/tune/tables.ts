/**
 * Tables of measured choices: made of journals' records, merged, written so that a changed measurement is a changed line, and found by builds. Where
 * they lie: `tuning/<device class>.json` of this compiler, and of the user in ERNIE_COMPILE_TUNING or the XDG data folder; the user's come first.
 */

import { randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { open, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import type { KernelParams } from "../kernels/kernel-def.js";
import { readTuning, type TimedChoice, type TuningRow, type TuningTable } from "../kernels/tuning.js";
import { projectPath } from "../project.js";
import type { CudaArch } from "../toolchain/arch.js";
import { sha256 } from "../toolchain/cache.js";
import { fileError, makeFolder } from "../weights/file.js";
import type { Finalist, FinalRecord, JournalRecord, TaskRecord } from "./records.js";
import { winnerOf } from "./sweep.js";
import { KERNEL_CHOICE, variantKey } from "./task.js";

export function rowsOfRecords(records: readonly JournalRecord[]): readonly TuningRow[] {
  const tasks = new Map(records.filter((record) => record.kind === "task").map((record) => [record.task, record]));
  // The last one counts: it has seen the most trials.
  const finals = new Map(records.filter((record) => record.kind === "final").map((record) => [record.task, record]));
  const rows = [...finals].flatMap(([key, final]) => {
    const task = tasks.get(key);
    return task ? rowOf(task, final) : [];
  });
  return sortRows(rows);
}

function rowOf(task: TaskRecord, final: FinalRecord): TuningRow[] {
  const winner = winnerOf(task, final);
  const standard = final.variants.find(({ variant }) => variantKey(variant) === variantKey(task.default));
  if (!winner || !standard) return [];
  const order = [...final.variants].sort((a, b) => a.ratio - b.ratio || (variantKey(a.variant) < variantKey(b.variant) ? -1 : 1));
  const runnerUp = order.find((entry) => entry !== winner);
  const timed = ({ variant: { [KERNEL_CHOICE]: kernel, ...tuned }, ...times }: Finalist): TimedChoice => ({
    kernel: String(kernel ?? task.kernel),
    params: tuned as KernelParams,
    seconds: rounded(times.seconds),
    interval: [rounded(times.low), rounded(times.high)],
  });
  const { op, problem, layouts, rows } = task;
  return [
    { op, problem, layouts, rows, winner: timed(winner), ...(runnerUp ? { runnerUp: timed(runnerUp) } : {}), default: timed(standard) },
  ];
}

/** Digits beyond these are noise, and would make every table differ from every other. */
function rounded(seconds: number): number {
  return Number(seconds.toPrecision(4));
}

/** What a row is about; of two with the same one, one is too many. */
export function rowKey({ op, problem, layouts, rows }: TuningRow): string {
  const sorted = (record: object): string => JSON.stringify(Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1)));
  return `${op} ${sorted(problem)} ${sorted(layouts)} ${String(rows).padStart(9, "0")}`;
}

function sortRows(rows: readonly TuningRow[]): readonly TuningRow[] {
  return [...rows].sort((a, b) => (rowKey(a) < rowKey(b) ? -1 : 1));
}

/** Rows of `newer` in place of those of `older` that are about the same. */
export function mergeRows(older: readonly TuningRow[], newer: readonly TuningRow[]): readonly TuningRow[] {
  return sortRows([...new Map([...older, ...newer].map((row) => [rowKey(row), row])).values()]);
}

/** A line a row. */
export function printTable({ device, rows }: TuningTable): string {
  const lines = sortRows(rows).map((row) => JSON.stringify(row));
  return `{\n"device": ${JSON.stringify(device)},\n"rows": [\n${lines.join(",\n")}\n]\n}\n`;
}

/** Beside it and renamed into place: a build reads the old table or the new one. */
export async function writeTable(path: string, table: TuningTable): Promise<void> {
  const temporary = `${path}.${process.pid}-${randomBytes(4).toString("hex")}`;
  try {
    await makeFolder(dirname(path));
    const file = await open(temporary, "wx");
    try {
      await file.writeFile(printTable(table));
      await file.datasync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw fileError(error, path);
  }
}

export function userTableFolder(env: NodeJS.ProcessEnv = process.env): string {
  return env.ERNIE_COMPILE_TUNING || join(env.XDG_DATA_HOME || join(homedir(), ".local", "share"), "ernie-compile", "tuning");
}

export function userTablePath(device: string): string {
  return join(userTableFolder(), `${device}.json`);
}

/** A table and where it came from, for the manifest. */
export interface FoundTable {
  readonly table: TuningTable;
  readonly sources: readonly { readonly from: "user" | "shipped" | "file"; readonly sha256: string }[];
}

/** What there is for a class of device. Both may have rows for a problem: at equal distance the first, the user's, is taken. */
export function findTables(device: string): FoundTable | undefined {
  return readPlaces(
    device,
    tableFolders().map(({ from, folder }) => ({ from, path: join(folder, `${device}.json`) })),
  );
}

/** What there is for GPUs that run code of an arch: a package is for all of them, and the machine that builds it may have none. */
export function findCudaTables(arch: CudaArch): FoundTable | undefined {
  const places = tableFolders().flatMap(({ from, folder }) =>
    existsSync(folder)
      ? readdirSync(folder)
          .filter((name) => name.startsWith(`${arch}-`) && name.endsWith(".json"))
          .sort()
          .map((name) => ({ from, path: join(folder, name) }))
      : [],
  );
  return readPlaces(arch, places);
}

type Place = { readonly from: "user" | "shipped"; readonly path: string };

function tableFolders(): readonly { readonly from: Place["from"]; readonly folder: string }[] {
  return [
    { from: "user", folder: userTableFolder() },
    { from: "shipped", folder: projectPath("tuning") },
  ];
}

function readPlaces(device: string, places: readonly Place[]): FoundTable | undefined {
  const found = places.filter(({ path }) => existsSync(path)).map(({ from, path }) => ({ from, ...readNamed(path) }));
  if (found.length === 0) return undefined;
  return {
    table: { device, rows: found.flatMap(({ table }) => table.rows) },
    sources: found.map(({ from, sha256: hash }) => ({ from, sha256: hash })),
  };
}

/** One that was named: all in it must be what this compiler knows. */
export function namedTable(path: string): FoundTable {
  const { table, sha256: hash } = readNamed(path, true);
  return { table, sources: [{ from: "file", sha256: hash }] };
}

function readNamed(path: string, strict = false): { readonly table: TuningTable; readonly sha256: string } {
  const table = readTuning(path, { strict });
  return { table, sha256: sha256(readFileSync(path)) };
}
