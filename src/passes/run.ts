/**
 * Runs passes over the programs of a model: verifies after each, dumps, times, stops and bisects. Knows no pass by name.
 * A dump folder holds one file a pass, `03-fuse-qkv.ir`, after `00-input.ir`.
 */

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bug, Diagnostic } from "../diagnostics.js";
import type { Graph } from "../ir/graph.js";
import { levelIndex } from "../ir/ops.js";
import { type PrintOptions, printAll } from "../ir/print.js";
import { type Applied, applyRules, type Refused } from "../ir/rewrite.js";
import { levelOf, verify } from "../ir/verify.js";
import type { Pass } from "./pass.js";

export interface PipelineOptions {
  /** Names of passes to leave out. */
  readonly disable?: readonly string[];
  /** At most this many rewrites in all; a pass without rules that changes something counts as one. For bisecting. */
  readonly limit?: number;
  readonly dumpDir?: string;
  /** Name of the last pass to run. */
  readonly stopAfter?: string;
  /** Verify the input and after each pass; on unless turned off. */
  readonly verify?: boolean;
  /** After each pass, with the graphs that it left. */
  readonly onPass?: (report: PassReport, graphs: readonly Graph[]) => void;
}

/** What a pass did, over all programs. */
export interface PassReport {
  readonly pass: string;
  readonly changed: boolean;
  readonly milliseconds: number;
  readonly applied: readonly Applied[];
  /** What would have matched but for a guard. */
  readonly refused: readonly Refused[];
}

export interface PipelineResult {
  readonly graphs: readonly Graph[];
  readonly reports: readonly PassReport[];
}

/** As `runPrograms`, for one graph. */
export function runPipeline(
  graph: Graph,
  passes: readonly Pass[],
  options: PipelineOptions = {},
): { graph: Graph; reports: readonly PassReport[] } {
  const { graphs, reports } = runPrograms([graph], passes, options);
  return { graph: graphs[0] as Graph, reports };
}

export function runPrograms(graphs: readonly Graph[], passes: readonly Pass[], options: PipelineOptions = {}): PipelineResult {
  checkNames(passes, [...(options.disable ?? []), ...(options.stopAfter === undefined ? [] : [options.stopAfter])]);
  const check = options.verify ?? true;
  const reports: PassReport[] = [];
  let current = graphs;
  let budget = options.limit ?? Number.POSITIVE_INFINITY;
  if (check) for (const graph of current) verify(graph, levelOf(graph));
  dump(options.dumpDir, 0, "input", () => printAll(current, { origins: true }));
  for (const pass of passes.filter(({ name }) => !options.disable?.includes(name))) {
    if (budget <= 0) break;
    const started = performance.now();
    checkLevels(pass, current);
    const outcome = runPass(pass, current, budget);
    const changed = outcome.graphs.length !== current.length || outcome.graphs.some((graph, i) => graph !== current[i]);
    const fresh = freshGraphs(current, outcome.graphs);
    current = outcome.graphs;
    budget -= "rules" in pass ? outcome.applied.length : Number(changed);
    if (check) for (const graph of fresh) verifyAfter(pass, graph);
    const report = {
      pass: pass.name,
      changed,
      milliseconds: performance.now() - started,
      applied: outcome.applied,
      refused: outcome.refused,
    };
    reports.push(report);
    dump(options.dumpDir, reports.length, pass.name, () => passText(report, current, { origins: true }));
    options.onPass?.(report, current);
    if (pass.name === options.stopAfter) break;
  }
  return { graphs: current, reports };
}

interface Outcome {
  readonly graphs: readonly Graph[];
  readonly applied: readonly Applied[];
  readonly refused: readonly Refused[];
}

function runPass(pass: Pass, graphs: readonly Graph[], limit: number): Outcome {
  if ("runAll" in pass) return { graphs: pass.runAll(graphs), applied: [], refused: [] };
  if ("run" in pass) return { graphs: graphs.map((graph) => pass.run(graph)), applied: [], refused: [] };
  const applied: Applied[] = [];
  const refused: Refused[] = [];
  const rewritten = graphs.map((graph) => {
    if (pass.programs !== undefined && !pass.programs.includes(graph.name)) return graph;
    const result = applyRules(graph, pass.rules, { pass: pass.name, limit: limit - applied.length });
    applied.push(...result.applied);
    refused.push(...result.refused);
    return result.graph;
  });
  return { graphs: rewritten, applied, refused };
}

/**
 * Graphs that are to be verified after a pass: not what it gave back as it was, for that has been verified, and levels nest; and one of those that
 * differ in name and bounds alone (clone-buckets), whose bounds follow from the limits of a request.
 */
function freshGraphs(before: readonly Graph[], after: readonly Graph[]): readonly Graph[] {
  const known = [...before];
  return after.filter((graph) => {
    const isKnown = known.some(
      ({ nodes, params, returns }) => nodes === graph.nodes && params === graph.params && returns === graph.returns,
    );
    if (!isKnown) known.push(graph);
    return !isKnown;
  });
}

function checkNames(passes: readonly Pass[], names: readonly string[]): void {
  const known = [...new Set(passes.map(({ name }) => name))];
  for (const name of names) {
    if (known.includes(name)) continue;
    throw new Diagnostic({ code: "unknown-pass", message: `there is no pass "${name}"`, hint: `passes: ${known.join(", ")}` });
  }
}

function checkLevels(pass: Pass, graphs: readonly Graph[]): void {
  for (const graph of graphs) {
    const level = levelOf(graph);
    if (levelIndex(level) > levelIndex(pass.needs))
      throw bug(`${pass.name} takes graphs up to the level ${pass.needs}, @${graph.name} is at ${level}`);
  }
}

function verifyAfter(pass: Pass, graph: Graph): void {
  try {
    verify(graph, pass.leaves);
  } catch (error) {
    if (!(error instanceof Diagnostic)) throw error;
    throw new Diagnostic({
      code: error.code,
      kind: "bug",
      message: `after ${pass.name}: ${error.summary}`,
      place: error.place,
      hint: `--limit=N finds the rewrite, --disable-pass ${pass.name} goes without it`,
      cause: error,
    });
  }
}

/** Counts and refusals as comments, then the graphs, or a word that they are as before. */
export function passText({ pass, changed, applied, refused }: PassReport, graphs: readonly Graph[], options: PrintOptions = {}): string {
  const counts = [...new Set(applied.map(({ rule }) => rule))].map(
    (rule) => `${rule} x${applied.filter((entry) => entry.rule === rule).length}`,
  );
  const head = [
    `// ${pass}${counts.length ? `: ${counts.join(", ")}` : ""}`,
    ...refused.map(({ rule, guard, at }) => `// not ${rule}: "${guard}" does not hold at ${at}`),
  ];
  return `${head.join("\n")}\n${changed ? printAll(graphs, options) : "// nothing changed\n"}`;
}

/** The text of a large model takes longer than the passes: it is made only where it is wanted. */
function dump(dir: string | undefined, number: number, name: string, text: () => string): void {
  if (dir === undefined) return;
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, `${String(number).padStart(2, "0")}-${name}.ir`), text());
}
