/** docs/ops.md: the op table as a page, with what each op means and where that is written. */

import ts from "typescript";
import { LEVELS, type Level, OP_NAMES, type OpName, opDef, type Trait } from "../../src/ir/ops.js";
import { KERNELS } from "../../src/kernels/table.js";
import { commentAbove, GENERATED, parseSource, properties, toMarkdown } from "./source.js";

const TABLE = "src/ir/ops.ts";

const LEVEL_TEXT: { readonly [level in Level]: string } = {
  model: "What the paper says; the frontend builds graphs of these alone.",
  fused: "What one kernel will do. The fusions make these.",
  kernel: "One op, one launch, with the chosen kernel and its parameters.",
  plan: "Memory with offsets, and calls on it.",
};

const TRAIT_TEXT: { readonly [trait in Trait]: string } = {
  pure: "no effect but its results",
  weight: "computed from weights alone: folded into the packed file",
  rowwise: "row i of each result needs row i only of the operands that have as many rows",
  view: "moves no data",
  commutative: "the first two operands may change places",
};

export function opsPage(): string {
  const comments = opComments();
  const traits = Object.entries(TRAIT_TEXT).map(([trait, text]) => `- \`${trait}\`: ${text}.`);
  const levels = LEVELS.map((level) => {
    const names = OP_NAMES.filter((name) => opDef(name).level === level);
    return `## Level \`${level}\`\n\n${LEVEL_TEXT[level]}\n\n${names.map((name) => opSection(name, comments.get(name) ?? "")).join("\n\n")}`;
  });
  const intro = [
    `All ops of the IR, from the table in [${TABLE}](../${TABLE}). Levels nest: each allows the ops of those before it. What an op means, in plain`,
    "arithmetic, is its function in [src/reference](../src/reference/ops.ts). Rows: T stands for tokens, S for sequences, k*T for (token, chosen expert).",
    "`name?` may be absent, `name*` takes any number.",
  ];
  return `${GENERATED}\n# Ops\n\n${intro.join("\n")}\n\n${traits.join("\n")}\n\n${levels.join("\n\n")}\n`;
}

function opSection(name: OpName, comment: string): string {
  const { operands, attrs, results, traits } = opDef(name);
  const attributes = Object.entries(attrs).map(([key, kind]) => (kind.endsWith("?") ? `${key}?: ${kind.slice(0, -1)}` : `${key}: ${kind}`));
  const braces = attributes.length > 0 ? ` {${attributes.join(", ")}}` : "";
  const kernels = [...new Set(KERNELS.filter(({ op }) => op === name).map((kernel) => kernel.name))];
  const notes = [
    traits.length > 0 ? `Traits: ${traits.map((trait) => `\`${trait}\``).join(", ")}.` : "Not pure.",
    kernels.length > 0 ? `Kernels: ${kernels.map((kernel) => `[\`${kernel}\`](kernels.md#${kernel})`).join(", ")}.` : "",
  ];
  return `### ${name}\n\n\`\`\`text\n${[...results].join(", ")} = ${name}(${operands.join(", ")})${braces}\n\`\`\`\n\n${toMarkdown(comment)}\n\n${notes.filter(Boolean).join(" ")}`;
}

function opComments(): Map<string, string> {
  const found = new Map<string, string>();
  const visit = (node: ts.Node): void => {
    if (ts.isVariableDeclaration(node) && node.name.getText() === "OPS" && node.initializer) {
      let table: ts.Expression = node.initializer;
      while (ts.isSatisfiesExpression(table) || ts.isAsExpression(table)) table = table.expression;
      if (ts.isObjectLiteralExpression(table)) for (const [name, entry] of properties(table)) found.set(name, commentAbove(entry));
    }
    ts.forEachChild(node, visit);
  };
  visit(parseSource(TABLE));
  return found;
}
