/** The verbs of the command line as one commander program: main.ts runs it, docs/cli.md shows its help. */

import { Command } from "commander";
import { compilerVersion } from "../project.js";
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
import { registerToolchain } from "./toolchain.js";
import { registerTune } from "./tune.js";
import { registerVerify } from "./verify.js";

const VERBS = [
  registerBuild,
  registerRun,
  registerChat,
  registerLogits,
  registerEval,
  registerBench,
  registerTune,
  registerInspect,
  registerVerify,
  registerOpt,
  registerDoctor,
  registerCache,
  registerToolchain,
];

/** All verbs with their options and help; nothing runs before `parseAsync`. */
export function createProgram(): Command {
  const program = new Command("ernie-compile")
    .description("Compiles ERNIE 4.5 models into small native packages that run with no Python and no framework.")
    .version(compilerVersion())
    .exitOverride()
    // What stands after a verb is the verb's: else `tune` would take --trials, --json and -o from the verbs below it.
    .enablePositionalOptions()
    .configureHelp({ sortSubcommands: false })
    .addHelpText(
      "after",
      "\nExamples:\n  ernie-compile ./ERNIE-4.5-0.3B-PT -o ./ernie\n  ernie-compile run ./ernie -p 'Hello'\n  ernie-compile doctor",
    );
  for (const register of VERBS) register(program);
  for (const command of allCommands(program)) command.exitOverride().showHelpAfterError("(--help shows how it is used)");
  return program;
}

function allCommands(command: Command): Command[] {
  return command.commands.flatMap((child) => [child, ...allCommands(child)]);
}
