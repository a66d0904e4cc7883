#!/usr/bin/env node
/**
 * The command line: one file a verb, exit codes in one place. 0 success, 1 failure, 2 usage, 130 on Ctrl-C.
 * `ernie-compile <model>` is short for `ernie-compile build <model>`.
 */

import { type Command, CommanderError } from "commander";
import { Diagnostic } from "../diagnostics.js";
import { createProgram } from "./program.js";
import { EXIT, printFailure } from "./terminal.js";

/** `ernie-compile ./model -o x` means `ernie-compile build ./model -o x`. */
function withDefaultVerb(args: readonly string[], program: Command): string[] {
  const first = args[0];
  const isVerb =
    first === undefined || first.startsWith("-") || first === "help" || program.commands.some((command) => command.name() === first);
  return isVerb ? [...args] : ["build", ...args];
}

async function main(args: readonly string[]): Promise<void> {
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    // The reader of a pipe went away: nobody is left to tell.
    if (error.code === "EPIPE") process.exit(EXIT.ok);
    throw error;
  });
  const program = createProgram();
  if (args.length === 0) {
    program.outputHelp();
    process.exitCode = EXIT.usage;
    return;
  }
  try {
    await program.parseAsync(withDefaultVerb(args, program), { from: "user" });
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
      return;
    }
    if (error instanceof Error && error.name === "AbortError") {
      process.exitCode = EXIT.interrupted;
      return;
    }
    printFailure(error, args.includes("--json"));
    process.exitCode = error instanceof Diagnostic && error.code === "usage" ? EXIT.usage : EXIT.failure;
  }
}

await main(process.argv.slice(2));
