/** docs/passes.md: the passes in the order in which they run, with the equations and guards of their rules, all from the sources. */

import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import ts from "typescript";
import {
  callsOf,
  commentAbove,
  escapeMarkdown,
  GENERATED,
  headComment,
  parseSource,
  properties,
  ROOT,
  stringProperty,
  toMarkdown,
} from "./source.js";

const PIPELINE = "src/passes/pipeline.ts";
const LOWER = "src/lower.ts";

interface Step {
  readonly pass: string;
  /** Why it stands where it stands. */
  readonly why: string;
}

interface RuleText {
  readonly name: string;
  readonly text: string;
}

export function passesPage(): string {
  const steps = pipeline();
  const files = passFiles();
  const order = steps.map(({ pass, why }, i) => `${i + 1}. [${pass}](#${pass})${why ? `: ${escapeMarkdown(lowerFirst(why))}` : ""}`);
  const names = [...new Set(steps.map(({ pass }) => pass))];
  const sections = names.map((name) => {
    const path = files.get(name);
    if (!path) throw new Error(`the pipeline has a pass ${name}, and no file of src/passes is named so`);
    return passSection(name, path);
  });
  const intro = [
    `The passes between the frontend and code generation, in order: fusions from [${PIPELINE}](../${PIPELINE}), then the lowering in`,
    `[${LOWER}](../${LOWER}). [src/passes/run.ts](../src/passes/run.ts) verifies the graph after each. To watch them:`,
    "",
    "```",
    "ernie-compile build model.json --dry-run --dump-dir dumps      # one .ir file a pass; it says when nothing changed",
    "ernie-compile opt graph.ir --passes fuse-qkv,fuse-gate-up --limit 3",
    "```",
    "",
    "A fusion can be left out with `--disable-pass <name>`: the package computes the same with more launches. A guard has a name, so that",
    '"why did it not fuse?" has an answer: dumps and `opt` list what would have matched but for a guard.',
  ];
  return `${GENERATED}\n# Passes\n\n${intro.join("\n")}\n\n${order.join("\n")}\n\n${sections.join("\n\n")}\n`;
}

function passSection(name: string, path: string): string {
  const file = parseSource(path);
  const definition = callsOf(file, "definePass").find((literal) => stringProperty(literal, "name") === name);
  if (!definition) throw new Error(`${path} defines no pass ${name}`);
  const levels = `Takes graphs up to level \`${stringProperty(definition, "needs")}\`, leaves level \`${stringProperty(definition, "leaves")}\`.`;
  const sources = dirname(path).endsWith(name) ? sourcesIn(dirname(path)) : [path];
  const rules = sources.flatMap((source) => rulesOf(parseSource(source)));
  const guards = sources.flatMap((source) => guardsOf(parseSource(source)));
  const parts = [
    `## ${name}`,
    `[${path}](../${path}). ${levels}`,
    toMarkdown(headComment(file)),
    rules.length > 0 ? `\`\`\`text\n${rules.map(({ name: rule, text }) => `${rule}:\n${indent(text)}`).join("\n")}\n\`\`\`` : "",
    guards.length > 0 ? `Guards:\n${[...new Set(guards)].map((guard) => `- ${escapeMarkdown(guard)}`).join("\n")}` : "",
  ];
  return parts.filter(Boolean).join("\n\n");
}

/** `rule({…})` and `const x: Rule = {…}`, with the comments above the declaration and above the pattern. */
function rulesOf(file: ts.SourceFile): RuleText[] {
  const found: RuleText[] = [];
  const add = (literal: ts.ObjectLiteralExpression, declaration: ts.Node): void => {
    const name = stringProperty(literal, "name");
    const match = properties(literal).get("match");
    const text = [commentAbove(declaration), match ? commentAbove(match) : ""].filter(Boolean).join("\n");
    if (name) found.push({ name, text: text || "(no equation: see the file)" });
  };
  const visit = (node: ts.Node): void => {
    if (ts.isVariableStatement(node)) {
      for (const { initializer, type } of node.declarationList.declarations) {
        const call =
          initializer && ts.isCallExpression(initializer) && initializer.expression.getText() === "rule"
            ? initializer.arguments[0]
            : undefined;
        const literal = call ?? (type?.getText() === "Rule" ? initializer : undefined);
        if (literal && ts.isObjectLiteralExpression(literal)) add(literal, node);
      }
    }
    ts.forEachChild(node, visit);
  };
  visit(file);
  return found;
}

/** A guard is a condition whose property name is a sentence. */
function guardsOf(file: ts.SourceFile): string[] {
  const found: string[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isPropertyAssignment(node) && ts.isStringLiteral(node.name) && node.name.text.includes(" ")) found.push(node.name.text);
    ts.forEachChild(node, visit);
  };
  visit(file);
  return found;
}

/** As fusionPasses() joins them: those for GPUs alone follow this one. */
const BEFORE_LAUNCH_PASSES = "last-token-head";

/** The array that lowering hands to the runner, with the fusions in their place. */
function pipeline(): Step[] {
  const file = parseSource(PIPELINE);
  const forGpus = (name: string): Step[] =>
    arrayNamed(file, name)
      .map(step)
      .map(({ pass, why }) => ({ pass, why: ["For GPUs", why && lowerFirst(why)].filter(Boolean).join(": ") }));
  const fusions = arrayNamed(file, "FUSION_PASSES")
    .map(step)
    .flatMap((each) => (each.pass === BEFORE_LAUNCH_PASSES ? [each, ...forGpus("LAUNCH_PASSES")] : [each]));
  return arrayNamed(parseSource(LOWER), "passes").flatMap((element) => {
    if (!ts.isSpreadElement(element)) return [step(element)];
    return element.expression.getText() === "fusions" ? fusions : forGpus("BUCKET_PASSES");
  });
}

function step(element: ts.Expression): Step {
  const name = ts.isCallExpression(element) ? element.expression : element;
  const pass = name.getText().replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  return { pass, why: commentAbove(element).replaceAll("\n", " ") };
}

function arrayNamed(file: ts.SourceFile, name: string): readonly ts.Expression[] {
  let found: readonly ts.Expression[] | undefined;
  const visit = (node: ts.Node): void => {
    if (
      ts.isVariableDeclaration(node) &&
      node.name.getText() === name &&
      node.initializer &&
      ts.isArrayLiteralExpression(node.initializer)
    ) {
      found = node.initializer.elements;
    }
    ts.forEachChild(node, visit);
  };
  visit(file);
  if (!found) throw new Error(`${file.fileName} has no array ${name}`);
  return found;
}

/** Pass name to file: they agree, whatever the folder. */
function passFiles(): Map<string, string> {
  const folders = readdirSync(join(ROOT, "src/passes"), { withFileTypes: true }).filter((entry) => entry.isDirectory());
  const files = folders.flatMap(({ name }) => sourcesIn(`src/passes/${name}`));
  return new Map(files.map((path) => [path.replace(/^.*\/|\.ts$/g, ""), path]));
}

function sourcesIn(folder: string): string[] {
  const names = readdirSync(join(ROOT, folder)).filter((name) => name.endsWith(".ts"));
  return names.sort().map((name) => `${folder}/${name}`);
}

function indent(text: string): string {
  return text.replace(/^/gm, "  ");
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}
