/** Runs the native packer `ern-pack` on a plan, beside the target and then renamed into place. Building the packer is the toolchain's. */

import { rm, writeFile } from "node:fs/promises";
import { execa } from "execa";
import { Diagnostic } from "../diagnostics.js";
import { fileError } from "./file.js";
import { type PackedHead, type PackPlan, serializePackPlan } from "./pack-plan.js";
import { commit, temporaryBeside } from "./safetensors-write.js";

export interface PackOptions {
  /** Path of the built `ern-pack`. */
  readonly packer: string;
  readonly plan: PackPlan;
  readonly head: PackedHead;
  /** The file to make or replace. */
  readonly out: string;
  readonly threads?: number | undefined;
  /** Bytes packed so far, and in all. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Packs into `out`: afterwards the whole new file is there, or what was there before. */
export async function runPacker({ packer, plan, head, out, threads, onProgress, signal }: PackOptions): Promise<void> {
  const temporary = temporaryBeside(out);
  const planFile = `${temporary}.plan.json`;
  try {
    await writeFile(planFile, serializePackPlan(plan, head), { flag: "wx" });
    const flags = threads === undefined ? [] : ["--threads", String(threads)];
    await watch(packer, [planFile, temporary, ...flags], { onProgress, signal });
    await commit(temporary, out);
  } catch (error) {
    throw fileError(error, out);
  } finally {
    await Promise.all([rm(planFile, { force: true }), rm(temporary, { force: true })]);
  }
}

/** `ern-pack --unpack`: what was packed, back as raw matrices, part after part; see runtime/pack/unpack.hpp. For tests and `verify`. */
export async function runUnpacker({
  packer,
  plan,
  head,
  packed,
  out,
}: Omit<PackOptions, "threads"> & { readonly packed: string }): Promise<void> {
  const planFile = `${temporaryBeside(out)}.plan.json`;
  try {
    await writeFile(planFile, serializePackPlan(plan, head), { flag: "wx" });
    await watch(packer, ["--unpack", planFile, packed, out], {});
  } finally {
    await rm(planFile, { force: true });
  }
}

/** The packer says one JSON object a line: `{done, total}` while it works, `{code, message, place}` when it fails. */
interface PackerLine {
  readonly done?: number;
  readonly total?: number;
  readonly code?: string;
  readonly message?: string;
  readonly place?: string;
}

async function watch(
  packer: string,
  args: readonly string[],
  { onProgress, signal }: Pick<PackOptions, "onProgress" | "signal">,
): Promise<void> {
  const child = execa(packer, args, {
    stdin: "ignore",
    buffer: { stdout: false },
    reject: false,
    ...(signal ? { cancelSignal: signal } : {}),
  });
  let failure: PackerLine = {};
  for await (const line of child.iterable({ preserveNewlines: false })) {
    const said = JSON.parse(line) as PackerLine;
    if (said.code !== undefined) failure = said;
    else if (said.done !== undefined && said.total !== undefined) onProgress?.(said.done, said.total);
  }
  const result = await child;
  signal?.throwIfAborted();
  if (result.exitCode === 0) return;
  throw packerError(failure, packer, result.signal ?? `exit code ${result.exitCode}`, result.stderr || result.originalMessage || "");
}

function packerError({ code, message, place }: PackerLine, packer: string, ended: string, stderr: string): Diagnostic {
  if (code === undefined || message === undefined) {
    const said = stderr.trim();
    return new Diagnostic({
      code: "pack-failed",
      kind: "environment",
      message: `the packer ended with ${ended}${said ? `: ${said}` : ""}`,
      place: packer,
      hint: "run `ernie-compile doctor`; `ernie-compile cache prune --all` has it built again",
    });
  }
  const hint = HINTS[code];
  return new Diagnostic({
    code: `pack-${code}`,
    kind: code === "plan" || code === "usage" ? "bug" : code.startsWith("source-") ? "input" : "environment",
    message,
    place,
    hint,
  });
}

const HINTS: Readonly<Record<string, string>> = {
  "disk-full": "free space there, or write elsewhere with -o",
  "source-changed": "the checkpoint changed while it was packed: run again when nothing writes to it",
};
