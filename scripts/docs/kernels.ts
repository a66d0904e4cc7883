/** docs/kernels.md: the table of kernels as a page, with the head of each kernel's header. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import type { AnyKernel } from "../../src/kernels/kernel-def.js";
import { KERNELS } from "../../src/kernels/table.js";
import { GENERATED, headLines, ROOT, readText } from "./source.js";

const TABLE = "src/kernels/table.ts";

export function kernelsPage(): string {
  const names = [...new Set(KERNELS.map(({ name }) => name))];
  const rows = KERNELS.map(({ op, target, name, order }) => `| [${op}](ops.md#${op}) | ${target} | [${name}](#${name}) | ${order} |`);
  const intro = [
    `What [${TABLE}](../${TABLE}) offers for each op and target, the default first. A kernel is a header in [runtime/device](../runtime/device); a template in`,
    "[templates](../templates) fixes its sizes and types and makes functions of it, which are one file of the generated package.",
    "",
    "Kernels of one *order* sum in the same order, whatever the number of rows, sequences and threads: their results are equal bit for bit.",
  ];
  const sections = names.map((name) =>
    kernelSection(
      name,
      KERNELS.filter((kernel) => kernel.name === name),
    ),
  );
  return `${GENERATED}\n# Kernels\n\n${intro.join("\n")}\n\n| op | target | kernel | order of sums |\n|---|---|---|---|\n${rows.join("\n")}\n\n${sections.join("\n\n")}\n`;
}

function kernelSection(name: string, kernels: readonly AnyKernel[]): string {
  const [{ target, template: file = name }] = kernels as readonly [AnyKernel];
  const template = `templates/${target}/${file}.hbs`;
  const header = /#include "(device\/(?:cpu|cuda)\/[^"]+)"/.exec(readText(template))?.[1];
  if (!header || !existsSync(join(ROOT, "runtime", header))) throw new Error(`${template} includes no kernel header that exists`);
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
  const links = `[${path}](../${path}), rendered by [${template}](../${template}).`;
  return `## ${name}\n\n${links}\n\n${[...new Set(facts)].join("\n")}\n\n\`\`\`text\n${headLines(path)}\n\`\`\``;
}
