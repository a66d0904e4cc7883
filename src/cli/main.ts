#!/usr/bin/env node
/**
 * The command line: one file a verb, exit codes in one place. 0 success, 1 failure, 2 usage, 130 on Ctrl-C.
 * `ernie-compile <model>` is short for `ernie-compile build <model>`.
 */

import { type Command, CommanderError } from "commander";
import { Diagnostic } from "../diagnostics.js";
import { watchInterrupts } from "./interrupt.js";
import { createProgram } from "./program.js";
import { EXIT, note, printFailure } from "./terminal.js";

/** `ernie-compile ./model -o x` means `ernie-compile build ./model -o x`. */
function withDefaultVerb(args: readonly string[], program: Command): string[] {
  const first = args[0];
  const isVerb =
    first === undefined || first.startsWith("-") || first === "help" || program.commands.some((command) => command.name() === first);
  return isVerb ? [...args] : ["build", ...args];
}

async function main(args: readonly string[]): Promise<void> {
  watchPipes();
  watchInterrupts();
  const program = createProgram();
  if (args.length === 0) {
    program.outputHelp();
    process.exitCode = EXIT.usage;
    return;
  }
  try {
    await program.parseAsync(withDefaultVerb(args, program), { from: "user" });
  } catch (error) {
    report(error, args.includes("--json"));
  }
}

function report(error: unknown, json: boolean): void {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    // People have been told on stderr.
    if (json && error.exitCode !== 0) printFailure(usageError(error), json);
  } else if (error instanceof Error && error.name === "AbortError") {
    process.exitCode ??= EXIT.interrupted;
    if (json) printFailure(new Diagnostic({ code: "interrupted", kind: "environment", message: "interrupted" }), json);
    else note("interrupted");
  } else {
    printFailure(error, json);
    process.exitCode = isUsage(error) ? EXIT.usage : EXIT.failure;
  }
}

function usageError({ message }: CommanderError): Diagnostic {
  return new Diagnostic({ code: "usage", message: message.replace(/^error: /, ""), hint: "--help shows how it is used" });
}

/** The place is then a flag: its value, or that it is missing. What a file holds is a failure. */
function isUsage(error: unknown): boolean {
  return error instanceof Diagnostic && error.kind === "input" && (error.code === "usage" || (error.place?.startsWith("-") ?? false));
}

/** A reader that went away: without one of stdout nobody waits for the result; without one of stderr the work goes on unseen. */
function watchPipes(): void {
  const onError = (gone: () => void) => (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
    gone();
  };
  process.stdout.on(
    "error",
    onError(() => process.exit(process.exitCode ?? EXIT.ok)),
  );
  process.stderr.on(
    "error",
    onError(() => {}),
  );
}

await main(process.argv.slice(2));
