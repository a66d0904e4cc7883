/** `ernie-compile tune list`: what there is to tune, and how many variants that is. */

import type { Command } from "commander";
import { defaultVariant, paramsOf, taskSpace } from "../tune/task.js";
import { printJson, printLine } from "./terminal.js";
import { type ModelFlags, tasksFor, withModelOptions } from "./tune.js";
import { taskName } from "./tune-view.js";

export function registerTuneList(tune: Command): void {
  withModelOptions(
    tune
      .command("list")
      .description("print the tasks of a model, their tunables and the sizes of their spaces")
      .argument("<input>", "as for tune"),
  )
    .option("--json", "print one JSON object")
    .addHelpText("after", "\nExample:\n  ernie-compile tune list ernie-4.5-0.3b --batch 1 --kernel 'linear*'")
    .action(async (input: string, flags: ModelFlags & { json?: boolean }) => {
      const { tasks, arch } = await tasksFor(input, flags);
      const spaces = tasks.map((task) => ({ task, space: taskSpace(task, arch) }));
      const variants = spaces.reduce((sum, { space }) => sum + space.size, 0);
      if (flags.json) {
        const list = spaces.map(({ task, space }) => ({
          task: task.key,
          kernel: task.kernel.name,
          rows: task.rows,
          tunables: Object.fromEntries(space.parameters.map(({ name, values }) => [name, values])),
          variants: space.size,
          cost: task.kernel.cost(paramsOf(task, defaultVariant(task)), task.rows),
          footprint: task.kernel.footprint?.(paramsOf(task, defaultVariant(task)), { rows: task.rows, arch }) ?? null,
        }));
        printJson({ arch, tasks: list, variants });
        return;
      }
      for (const { task, space } of spaces) {
        const varied = space.parameters.flatMap(({ name }, p) => {
          const used = new Set(Array.from({ length: space.size }, (_, i) => space.value(i, p)));
          return used.size > 1 ? [`${name} ${[...used].sort((a, b) => Number(a) - Number(b)).join("|")}`] : [];
        });
        printLine(`${taskName(task)}: ${space.size} variants${varied.length ? ` (${varied.join(", ")})` : ""}`);
      }
      printLine(`${tasks.length} tasks, ${variants} variants, ${arch}`);
    });
}
