/** docs/cli.md: what `--help` says, verb by verb. */

import type { Command } from "commander";
import { createProgram } from "../../src/cli/program.js";
import { GENERATED } from "./source.js";

/** Help does not depend on the terminal that makes this page. */
const COLUMNS = 120;

export function cliPage(): string {
  const program = createProgram();
  const verbs = commandsOf(program, "ernie-compile");
  const index = verbs.map(([name, command]) => `| [${name}](#${anchor(name)}) | ${command.description()} |`);
  const sections = verbs.map(([name, command]) => `## ${name}\n\n\`\`\`text\n${help(command)}\n\`\`\``);
  const intro = [
    "`ernie-compile <model>` is short for `ernie-compile build <model>`. Results go to stdout, progress and messages to stderr; `--json` prints one object for",
    "programs. Exit codes: 0 success, 1 failure, 2 usage, 130 Ctrl-C. `NO_COLOR` turns colour off.",
  ];
  return `${GENERATED}\n# Command line\n\n${intro.join("\n")}\n\n| verb | what it does |\n|---|---|\n${index.join("\n")}\n\n${sections.join("\n\n")}\n`;
}

/** Verbs that do something themselves, with those below them: `cache ls` and so on. */
function commandsOf(parent: Command, path: string): (readonly [string, Command])[] {
  return parent.commands.flatMap((command) => {
    const name = `${path} ${command.name()}`;
    return command.commands.length > 0 ? commandsOf(command, name) : [[name, command] as const];
  });
}

function help(command: Command): string {
  let text = "";
  command.configureOutput({ writeOut: (part) => (text += part), getOutHelpWidth: () => COLUMNS, getOutHasColors: () => false });
  command.outputHelp();
  return text.trimEnd();
}

function anchor(name: string): string {
  return name.replaceAll(" ", "-");
}
