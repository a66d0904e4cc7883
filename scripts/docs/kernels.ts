/** docs/kernels.md: the table of kernels as a page, with the head of each kernel's header. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import type { AnyKernel } from "../../src/kernels/kernel-def.js";
import { STEPS } from "../../src/kernels/steps.js";
import { KERNELS } from "../../src/kernels/table.js";
import { GENERATED, headLines, ROOT, readText } from "./source.js";

const TABLE = "src/kernels/table.ts";

export function kernelsPage(): string {
  const names = [...new Set(KERNELS.map(sectionOf))];
  const rows = KERNELS.map(
    (kernel) => `| [${kernel.op}](ops.md#${kernel.op}) | [${kernel.name}](#${sectionOf(kernel)}) | ${kernel.target} | ${kernel.order} |`,
  );
  const intro = [
    `What [${TABLE}](../${TABLE}) offers for each op, the default first. A kernel is a header in [runtime/device/cpu](../runtime/device/cpu) or [runtime/device/cuda](../runtime/device/cuda);`,
    "a template in [templates/cpu](../templates/cpu) or [templates/cuda](../templates/cuda) fixes its sizes and types and makes one function of it, which is one file",
    "of the generated package. Variants of one template differ in how many rows they are for.",
    "",
    "Kernels of one *order* sum in the same order, whatever the number of rows, sequences and threads: their results are equal bit for bit.",
  ];
  const sections = names.map((name) =>
    kernelSection(
      name,
      KERNELS.filter((kernel) => sectionOf(kernel) === name),
    ),
  );
  return `${GENERATED}\n# Kernels\n\n${intro.join("\n")}\n\n| op | kernel | target | order of sums |\n|---|---|---|---|\n${rows.join("\n")}\n\n${sections.join("\n\n")}\n\n${stepsSection()}\n`;
}

function stepsSection(): string {
  const rows = STEPS.map(
    ({ op, name, target, tunables = [] }) =>
      `| ${op} | ${name} | ${target} | ${tunables.map((tunable) => `\`${tunable.name}\` (${tunable.summary})`).join(", ")} |`,
  );
  return [
    "## Above kernels",
    "",
    "What [src/kernels/steps.ts](../src/kernels/steps.ts) leaves to measurements besides: how a decode step runs, how a prompt is cut into steps, how many threads. The first of an op is the default.",
    "",
    "| choice about | name | target | tunable |",
    "|---|---|---|---|",
    ...rows,
  ].join("\n");
}

function sectionOf({ target, name, template = name }: AnyKernel): string {
  return target === "cpu" ? template : `${target}_${template}`;
}

function kernelSection(name: string, kernels: readonly AnyKernel[]): string {
  const { target, template: base = name } = kernels[0] as AnyKernel;
  const template = `templates/${target}/${base}.hbs`;
  const isTriton = kernels[0]?.language === "triton";
  const header = /#include "(device\/c\w+\/[^"]+)"/.exec(readText(template))?.[1];
  if (!isTriton && (!header || !existsSync(join(ROOT, "runtime", header))))
    throw new Error(`${template} includes no kernel header that exists`);
  const path = `runtime/${header}`;
  const facts = kernels.flatMap((kernel) => [
    `- Computes [${kernel.op}](ops.md#${kernel.op}).`,
    ...Object.entries(kernel.weights ?? {}).map(
      ([operand, formats]) => `- Reads \`${operand}\` as ${formats.map(({ layout, dtype }) => `${dtype} in \`${layout}\``).join(", or ")}.`,
    ),
    ...(kernel.tunables?.length
      ? [`- Tunable: ${kernel.tunables.map(({ name, summary }) => `\`${name}\` (${summary})`).join(", ")}.`]
      : []),
  ]);
  if (isTriton) return `## ${name}\n\n[${template}](../${template}), a whole kernel in Triton.\n\n${[...new Set(facts)].join("\n")}`;
  const links = `[${path}](../${path}), rendered by [${template}](../${template}).`;
  return `## ${name}\n\n${links}\n\n${[...new Set(facts)].join("\n")}\n\n\`\`\`text\n${headLines(path)}\n\`\`\``;
}
