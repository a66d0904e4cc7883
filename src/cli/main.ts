#!/usr/bin/env node
/**
 * The command line: one file a verb, exit codes in one place. 0 success, 1 failure, 2 usage, 130 on Ctrl-C.
 * `ernie-compile <model>` is short for `ernie-compile build <model>`.
 */

import type { Command } from "commander";
import { Diagnostic } from "../diagnostics.js";
import { nearest } from "../frontend/nearest.js";
import { reportFailure } from "./failure.js";
import { watchInterrupts } from "./interrupt.js";
import { createProgram } from "./program.js";
import { EXIT } from "./terminal.js";

/** `ernie-compile ./model -o x` means `ernie-compile build ./model -o x`. */
function hasVerb([first]: readonly string[], program: Command): boolean {
  return first === undefined || first.startsWith("-") || first === "help" || program.commands.some((command) => command.name() === first);
}

/** What was taken for a model may be a verb with a slip in it. */
function withVerbHint(error: unknown, [first = ""]: readonly string[], program: Command): unknown {
  if (!(error instanceof Diagnostic) || error.code !== "input-not-found") return error;
  const meant = nearest(
    first,
    program.commands.map((command) => command.name()),
  );
  if (meant === undefined) return error;
  const { code, kind, summary: message, place } = error;
  return new Diagnostic({ code, kind, message, place, hint: `did you mean ernie-compile ${meant}?`, cause: error });
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
  const short = !hasVerb(args, program);
  try {
    await program.parseAsync(short ? ["build", ...args] : args, { from: "user" });
  } catch (error) {
    const code = reportFailure(short ? withVerbHint(error, args, program) : error, args.includes("--json"));
    // A signal has said already which it is.
    process.exitCode ??= code;
  }
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
