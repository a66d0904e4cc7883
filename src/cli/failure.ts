/** What went wrong, as people and programs are told, and the exit code for it. */

import { CommanderError } from "commander";
import { Diagnostic } from "../diagnostics.js";
import { fileError } from "../weights/file.js";
import { bold, EXIT, messageOf, note, printJson, red } from "./terminal.js";

/** Tells of it on stderr, or with `--json` as one object on stdout; gives the exit code. */
export function reportFailure(error: unknown, json: boolean): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return EXIT.ok;
    // People have been told by commander.
    if (json) printFailure(usageError(error), json);
    return EXIT.usage;
  }
  if (error instanceof Error && error.name === "AbortError") {
    if (json) printFailure(new Diagnostic({ code: "interrupted", kind: "environment", message: "interrupted" }), json);
    else note("interrupted");
    return EXIT.interrupted;
  }
  printFailure(error, json);
  return isUsage(error) ? EXIT.usage : EXIT.failure;
}

/** The place is then a flag: its value, or that it is missing. What a file holds is a failure. */
function isUsage(error: unknown): boolean {
  return error instanceof Diagnostic && error.kind === "input" && (error.code === "usage" || (error.place?.startsWith("-") ?? false));
}

function usageError({ message }: CommanderError): Diagnostic {
  return new Diagnostic({ code: "usage", message: message.replace(/^error: /, ""), hint: "--help shows how it is used" });
}

function printFailure(thrown: unknown, json: boolean): void {
  const error = asDiagnostic(thrown);
  if (json) {
    const bug = { code: "internal", kind: "bug", message: messageOf(error), place: null, hint: null };
    printJson({ error: error instanceof Diagnostic ? error.toJSON() : bug });
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
