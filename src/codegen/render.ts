/**
 * Renders a template from a typed view. A template sees exactly its view: a name that the view lacks and a field that no template line uses are
 * both errors, also inside branches that are not taken (handlebars itself lets a missing name inside `{{#if}}` pass in silence).
 * What a view holds is said by each kernel's entry in src/kernels; no string from a model folder is ever in one.
 */

import { readFileSync } from "node:fs";
import Handlebars from "handlebars";
import { bug } from "../diagnostics.js";
import type { View, ViewValue } from "../kernels/view.js";

/** src/codegen and dist/codegen lie equally deep. */
const TEMPLATES = new URL("../../templates/", import.meta.url);

interface Template {
  readonly ast: hbs.AST.Program;
  readonly render: Handlebars.TemplateDelegate;
}

const loaded = new Map<string, Template>();

/** `name` is a path within templates/ without its ending: `cpu/linear`. */
export function renderTemplate(name: string, view: View): string {
  const template = loadTemplate(name);
  checkView(name, template.ast, view);
  return template.render(view);
}

function loadTemplate(name: string): Template {
  let template = loaded.get(name);
  if (!template) {
    const source = readFileSync(new URL(`${name}.hbs`, TEMPLATES), "utf8");
    const engine = Handlebars.create();
    template = { ast: engine.parse(source), render: engine.compile(source, { noEscape: true, strict: true, knownHelpersOnly: true }) };
    loaded.set(name, template);
  }
  return template;
}

/** Holds a template's names and a view's fields to each other. */
export function checkView(name: string, ast: ReturnType<typeof Handlebars.parse>, view: View): void {
  const used = new Set<ViewValue>();
  const names = new Map<View, Set<string>>();
  walk(name, ast, [view], names);
  const visit = (value: ViewValue, path: string): void => {
    if (typeof value !== "object" || used.has(value)) return;
    used.add(value);
    if (isList(value)) {
      for (const item of value) visit(item, `${path.slice(0, -1)}[].`);
      return;
    }
    for (const [field, inner] of Object.entries(value)) {
      if (!names.get(value)?.has(field)) throw bug(`the view's field ${path}${field} is not used`, `templates/${name}.hbs`);
      visit(inner, `${path}${field}.`);
    }
  };
  visit(view, "");
}

function isList(value: ViewValue): value is readonly ViewValue[] {
  return Array.isArray(value);
}

/** `scopes` is the stack of views that paths are looked up in, innermost last. */
function walk(name: string, program: hbs.AST.Program, scopes: readonly ViewValue[], names: Map<View, Set<string>>): void {
  for (const statement of program.body) {
    switch (statement.type) {
      case "ContentStatement":
      case "CommentStatement":
        break;
      case "MustacheStatement":
        lookUp(name, (statement as hbs.AST.MustacheStatement).path, scopes, names);
        break;
      case "BlockStatement":
        walkBlock(name, statement as hbs.AST.BlockStatement, scopes, names);
        break;
      default:
        throw bug(`${statement.type} is more than our templates use`, `templates/${name}.hbs:${statement.loc.start.line}`);
    }
  }
}

function walkBlock(name: string, block: hbs.AST.BlockStatement, scopes: readonly ViewValue[], names: Map<View, Set<string>>): void {
  const helper = (block.path as hbs.AST.PathExpression).original;
  const [subject] = block.params;
  if (!subject || block.params.length !== 1) throw bug(`#${helper} takes one name`, `templates/${name}.hbs:${block.loc.start.line}`);
  const value = lookUp(name, subject, scopes, names);
  if (helper === "each") {
    if (typeof value !== "object" || !isList(value))
      throw bug(`#each over ${String(value)}`, `templates/${name}.hbs:${block.loc.start.line}`);
    for (const item of value) walk(name, block.program, [...scopes, item], names);
  } else if (helper === "if" || helper === "unless") {
    walk(name, block.program, scopes, names);
  } else {
    throw bug(`#${helper} is more than our templates use`, `templates/${name}.hbs:${block.loc.start.line}`);
  }
  if (block.inverse) walk(name, block.inverse, scopes, names);
}

function lookUp(name: string, expression: hbs.AST.Expression, scopes: readonly ViewValue[], names: Map<View, Set<string>>): ViewValue {
  const place = `templates/${name}.hbs:${expression.loc.start.line}`;
  if (expression.type !== "PathExpression") throw bug(`${expression.type} is more than our templates use`, place);
  const path = expression as hbs.AST.PathExpression;
  let value = scopes[scopes.length - 1 - path.depth] as ViewValue;
  if (path.data) return path.original;
  for (const part of path.parts) {
    const field = String(part);
    if (typeof value !== "object" || isList(value) || !Object.hasOwn(value, field)) throw bug(`the view has no ${path.original}`, place);
    const seen = names.get(value) ?? new Set<string>();
    names.set(value, seen.add(field));
    value = value[field] as ViewValue;
  }
  return value;
}
