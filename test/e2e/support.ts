/** What end-to-end tests share: the command line as a user runs it, packages built once a run, and the measure of error. */

import { mkdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { afterAll } from "vitest";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));
export const CLI = join(ROOT, "dist", "cli", "main.js");
export const GOLDENS = join(ROOT, "test", "goldens");
export const MODELS = join(ROOT, "examples", "models");

/** A folder of this test file. Packages are megabytes each: they go when it ends, after what its own hooks hold has gone. */
export const WORK = join(tmpdir(), `ernie-compile-e2e-${process.pid}`);
mkdirSync(WORK, { recursive: true });
afterAll(() => rmSync(WORK, { recursive: true, force: true }));

export interface CliResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `ernie-compile` and gives back whatever happened. */
export async function cli(
  args: readonly string[],
  options: { env?: Record<string, string>; cwd?: string; input?: string } = {},
): Promise<CliResult> {
  const { exitCode, stdout, stderr } = await execa(process.execPath, [CLI, ...args], {
    reject: false,
    env: { NO_COLOR: "1", ...options.env },
    cwd: options.cwd ?? ROOT,
    input: options.input ?? "",
    timeout: 200_000,
    maxBuffer: 64_000_000,
  });
  return { exitCode: exitCode ?? -1, stdout, stderr };
}

/** As `cli`, for calls that must succeed. */
export async function cliOk(args: readonly string[], options: Parameters<typeof cli>[1] = {}): Promise<CliResult> {
  const result = await cli(args, options);
  if (result.exitCode !== 0)
    throw new Error(`ernie-compile ${args.join(" ")} ended with ${result.exitCode}\n${result.stdout}\n${result.stderr}`);
  return result;
}

const built = new Map<string, Promise<string>>();

/** Builds a model once for each set of flags; gives the package's folder. */
export function buildPackage(model: string, ...flags: readonly string[]): Promise<string> {
  const key = JSON.stringify([model, ...flags]);
  let folder = built.get(key);
  if (!folder) {
    const out = join(WORK, `package-${built.size}`);
    folder = cliOk(["build", model, "-o", out, ...flags]).then(() => out);
    built.set(key, folder);
  }
  return folder;
}

/** Normalised mean square error: |found - expected|^2 / |expected|^2. */
export function nmse(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (found.length !== expected.length) throw new Error(`found ${found.length} values, expected ${expected.length}`);
  let error = 0;
  let power = 0;
  for (let i = 0; i < expected.length; i++) {
    error += ((found[i] as number) - (expected[i] as number)) ** 2;
    power += (expected[i] as number) ** 2;
  }
  return error / power;
}

/** How far the best value of a row leads the second best. */
export function lead(row: ArrayLike<number>): number {
  let best = Number.NEGATIVE_INFINITY;
  let second = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < row.length; i++) {
    const value = row[i] as number;
    if (value > best) [best, second] = [value, best];
    else if (value > second) second = value;
  }
  return best - second;
}
