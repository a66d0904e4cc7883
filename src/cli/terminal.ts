/** What the command line prints and where: results on stdout, progress and messages on stderr; colour only on a terminal that wants it. */

import { Diagnostic } from "../diagnostics.js";
import { fileError } from "../weights/file.js";

export const EXIT = { ok: 0, failure: 1, usage: 2, interrupted: 130, terminated: 143 } as const;

const colour = (stream: NodeJS.WriteStream) => Boolean(stream.isTTY) && !process.env.NO_COLOR && process.env.TERM !== "dumb";

function paint(code: number): (text: string, stream?: NodeJS.WriteStream) => string {
  return (text, stream = process.stderr) => (colour(stream) ? `\u001b[${code}m${text}\u001b[0m` : text);
}
export const bold = paint(1);
export const dim = paint(2);
export const red = paint(31);
export const green = paint(32);

export function printLine(text: string): void {
  process.stdout.write(`${text}\n`);
}

export function printJson(value: unknown): void {
  printLine(JSON.stringify(value, null, 2));
}

export function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** A failure as people read it, or as one JSON object on stdout for programs. */
export function printFailure(thrown: unknown, json: boolean): void {
  const error = asDiagnostic(thrown);
  if (json) {
    const body =
      error instanceof Diagnostic ? error.toJSON() : { code: "internal", kind: "bug", message: messageOf(error), place: null, hint: null };
    printJson({ error: body });
    return;
  }
  if (error instanceof Diagnostic) note(error.message.replace(/^[^:]*:/, (head) => red(bold(head))));
  else
    note(
      `${red(bold("internal (bug):"))} ${error instanceof Error ? (error.stack ?? error.message) : messageOf(error)}\n  command: ${process.argv.slice(1).join(" ")}`,
    );
}

/** What the operating system refused is no bug of ours, wherever it came from. */
function asDiagnostic(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof Diagnostic || !("syscall" in error)) return error;
  return fileError(error, "path" in error ? String(error.path) : String(error.syscall));
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** `12.3 MB`; powers of 1000, as disks and bandwidths are counted. */
export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${units[unit]}`;
}

export function formatMs(ms: number): string {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}
