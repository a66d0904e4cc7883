/** Comments and literals out of TypeScript and C++ sources, for pages that are made from them. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));

export function readText(path: string): string {
  return readFileSync(join(ROOT, path), "utf8");
}

export function parseSource(path: string): ts.SourceFile {
  return ts.createSourceFile(path, readText(path), ts.ScriptTarget.Latest, true);
}

/** The comments right above a node, without their signs; "" if there is none. */
export function commentAbove(node: ts.Node): string {
  const text = node.getSourceFile().text;
  const ranges = ts.getLeadingCommentRanges(text, node.getFullStart()) ?? [];
  return ranges.map(({ pos, end }) => plain(text.slice(pos, end))).join("\n");
}

/** The comment that a TypeScript file opens with, without a `#!` line. */
export function headComment(file: ts.SourceFile): string {
  const range = (ts.getLeadingCommentRanges(file.text, ts.getShebang(file.text)?.length ?? 0) ?? [])[0];
  return range ? plain(file.text.slice(range.pos, range.end)) : "";
}

/** The `//` lines that a C++ file opens with. */
export function headLines(path: string): string {
  const lines = readText(path).split("\n");
  const end = lines.findIndex((line) => !line.startsWith("//"));
  return lines
    .slice(0, end)
    .map((line) => line.replace(/^\/\/ ?/, ""))
    .join("\n");
}

/** Comment text without its signs; indentation beyond one space stays. */
function plain(comment: string): string {
  return comment
    .replace(/^\/\*+ ?/, "")
    .replace(/\s*\*+\/$/, "")
    .split("\n")
    .map((line) => line.replace(/^\s*(\*|\/\/) ?/, "").trimEnd())
    .join("\n")
    .trim();
}

/** Properties of an object literal by name; those without a plain name are left out. */
export function properties(literal: ts.ObjectLiteralExpression): Map<string, ts.ObjectLiteralElementLike> {
  const found = new Map<string, ts.ObjectLiteralElementLike>();
  for (const property of literal.properties) {
    if (property.name && (ts.isIdentifier(property.name) || ts.isStringLiteral(property.name))) found.set(property.name.text, property);
  }
  return found;
}

/** The object literals that `callee` is called with, in order of the text. */
export function callsOf(file: ts.SourceFile, callee: string): ts.ObjectLiteralExpression[] {
  const found: ts.ObjectLiteralExpression[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isCallExpression(node) && ts.isIdentifier(node.expression) && node.expression.text === callee) {
      const argument = node.arguments[0];
      if (argument && ts.isObjectLiteralExpression(argument)) found.push(argument);
    }
    ts.forEachChild(node, visit);
  };
  visit(file);
  return found;
}

/** Value of a string property; undefined where it is no plain string. */
export function stringProperty(literal: ts.ObjectLiteralExpression, name: string): string | undefined {
  const property = properties(literal).get(name);
  return property && ts.isPropertyAssignment(property) && ts.isStringLiteral(property.initializer) ? property.initializer.text : undefined;
}

/** Paragraphs as Markdown: indented stretches are shown as they are. */
export function toMarkdown(comment: string): string {
  const out: string[] = [];
  let quoted = false;
  for (const line of comment.split("\n")) {
    const indented = /^ {2,}\S/.test(line);
    if (indented !== quoted && (indented || line !== "")) {
      if (out.at(-1) !== "" && indented) out.push("");
      out.push(indented ? "```text" : "```");
      if (!indented && line !== "") out.push("");
      quoted = indented;
    }
    out.push(quoted || line === "" ? line : escapeMarkdown(line));
  }
  if (quoted) out.push("```");
  return out.join("\n").replace(/\n+```\n/g, (end) => end.replace(/^\n+/, "\n"));
}

/** `*` and `_` in comments are arithmetic and names, never emphasis; `<` opens no tag. Spans in backquotes stay. */
export function escapeMarkdown(text: string): string {
  return text
    .split(/(`[^`]*`)/)
    .map((part) => (part.startsWith("`") ? part : part.replace(/[*_<|]/g, "\\$&")))
    .join("");
}

export const GENERATED = "<!-- Made by `npm run docs` from the sources; a test says when it is stale. -->";
