#!/usr/bin/env node
/**
 * The command line: one file a verb, exit codes in one place. 0 success, 1 failure, 2 usage, 130 on Ctrl-C.
 * `ernie-compile <model>` is short for `ernie-compile build <model>`.
 */

import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { Diagnostic } from "../diagnostics.js";
import { registerBench } from "./bench.js";
import { registerBuild } from "./build.js";
import { registerCache } from "./cache.js";
import { registerChat } from "./chat.js";
import { registerDoctor } from "./doctor.js";
import { registerEval } from "./eval.js";
import { registerInspect } from "./inspect.js";
import { registerLogits } from "./logits.js";
import { registerOpt } from "./opt.js";
import { registerRun } from "./run.js";
import { EXIT, printFailure } from "./terminal.js";
import { registerVerify } from "./verify.js";

const VERBS = [
  registerBuild,
  registerRun,
  registerChat,
  registerLogits,
  registerEval,
  registerBench,
  registerInspect,
  registerVerify,
  registerOpt,
  registerDoctor,
  registerCache,
];

function version(): string {
  const file = new URL("../../package.json", import.meta.url);
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}

function createProgram(): Command {
  const program = new Command("ernie-compile")
    .description("Compiles ERNIE 4.5 models into small native packages that run with no Python and no framework.")
    .version(version())
    .exitOverride()
    .configureHelp({ sortSubcommands: false })
    .addHelpText("after", "\nExamples:\n  ernie-compile ./ERNIE-4.5-0.3B-PT -o ./ernie\n  ernie-compile run ./ernie -p 'Hello'\n  ernie-compile doctor");
  for (const register of VERBS) register(program);
  for (const command of allCommands(program)) command.exitOverride().showHelpAfterError("(--help shows how it is used)");
  return program;
}

function allCommands(command: Command): Command[] {
  return command.commands.flatMap((child) => [child, ...allCommands(child)]);
}

/** `ernie-compile ./model -o x` means `ernie-compile build ./model -o x`. */
function withDefaultVerb(args: readonly string[], program: Command): string[] {
  const first = args[0];
  const isVerb = first === undefined || first.startsWith("-") || first === "help" || program.commands.some((command) => command.name() === first);
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
