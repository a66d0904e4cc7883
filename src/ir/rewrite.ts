/**
 * The driver that applies rules until nothing matches. Graphs are immutable: each sweep looks for matches in one graph, then copies it with
 * the matches replaced. Matches of a sweep never share a node that goes away; what overlaps waits for the next sweep.
 */

import { bug } from "../diagnostics.js";
import { GraphInfo } from "./analysis.js";
import type { Graph, Node } from "./graph.js";
import { nodePrinter } from "./print.js";
import { type Chosen, Replacer } from "./replace.js";
import type { NearMiss, Rule } from "./rule.js";

export interface Applied {
  readonly rule: string;
  /** Text of the node that was the root. */
  readonly at: string;
}

export interface Refused extends Applied {
  readonly guard: string;
}

export interface RewriteResult {
  /** The graph given, itself, if nothing was applied. */
  readonly graph: Graph;
  readonly applied: readonly Applied[];
  /** What would have matched in the last sweep but for a guard. */
  readonly refused: readonly Refused[];
}

export interface RewriteOptions {
  /** Name of the pass, for the origins of new nodes. */
  readonly pass: string;
  /** At most this many rewrites: for bisecting. */
  readonly limit?: number;
}

/** A rule set that rewrites its own results over and over is wrong; no sound one comes near this. */
const MAX_SWEEPS = 2000;

/** Applies `rules` until none matches. Earlier rules choose first. */
export function applyRules(
  graph: Graph,
  rules: readonly Rule[],
  { pass, limit = Number.POSITIVE_INFINITY }: RewriteOptions,
): RewriteResult {
  const applied: Applied[] = [];
  let current = graph;
  for (let sweep = 0; sweep < MAX_SWEEPS; sweep++) {
    const info = new GraphInfo(current);
    const { matches, misses } = findMatches(info, rules, limit - applied.length);
    const text = nodePrinter(current);
    for (const { rule, match } of matches) applied.push({ rule, at: text(match.root) });
    if (matches.length === 0 || applied.length >= limit) {
      const refused = misses.map(({ rule, miss }) => ({ rule, guard: miss.guard, at: text(miss.root) }));
      return { graph: matches.length ? new Replacer(info, matches, pass).run() : current, applied, refused };
    }
    current = new Replacer(info, matches, pass).run();
  }
  throw bug(`the rules of ${pass} do not come to rest: ${[...new Set(applied.slice(-20).map(({ rule }) => rule))].join(", ")}`);
}

function findMatches(
  info: GraphInfo,
  rules: readonly Rule[],
  limit: number,
): { matches: Chosen[]; misses: { rule: string; miss: NearMiss }[] } {
  const matches: Chosen[] = [];
  const misses: { rule: string; miss: NearMiss }[] = [];
  const claimed = new Set<Node>();
  for (const { name, find } of rules) {
    for (const found of find(info)) {
      if (!("rewrite" in found)) misses.push({ rule: name, miss: found });
      else if (matches.length < limit && !found.nodes.some((node) => claimed.has(node))) {
        for (const node of found.nodes) claimed.add(node);
        matches.push({ rule: name, match: found });
      }
    }
  }
  return { matches, misses };
}
