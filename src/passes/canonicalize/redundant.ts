/** What is computed twice, and what is computed for nobody. */

import { hasEffect } from "../../ir/analysis.js";
import { type LooseAttrs, type Node, operandValues, type Value } from "../../ir/graph.js";
import { printType } from "../../ir/print.js";
import type { Match, Rule } from "../../ir/rule.js";

/** The same pure op on the same operands, computed once: also a weight that is named twice. */
export const common: Rule = {
  name: "same-twice",
  *find(info) {
    const first = new Map<string, Node>();
    for (const root of info.graph.nodes) {
      if (hasEffect(root)) continue;
      const key = keyOf(root);
      const before = first.get(key);
      if (before)
        yield { root, nodes: [root], rewrite: () => root.results.map((result, i) => [result, before.results[i] as Value] as const) };
      else first.set(key, root);
    }
  },
};

function keyOf(node: Node): string {
  const types = node.results.map((result) => printType(result.type));
  const attrs = Object.entries(node.attrs as LooseAttrs).sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify([node.op, operandShape(node), operandValues(node).map(({ id }) => id), attrs, types]);
}

/** Which operands are there: two absent ones of different names must not look alike. */
function operandShape(node: Node): readonly string[] {
  return Object.keys(node.operands).sort();
}

/** Nobody reads it and it has no effect. */
export const dead: Rule = {
  name: "dead",
  *find(info): Iterable<Match> {
    const live = new Set<Node>();
    const returned = info.graph.returns.map(({ value }) => info.producer(value)).filter((node) => node !== undefined);
    const pending = [...info.graph.nodes.filter(hasEffect), ...returned];
    for (let node = pending.pop(); node; node = pending.pop()) {
      if (live.has(node)) continue;
      live.add(node);
      pending.push(...operandValues(node).flatMap((value) => info.producer(value) ?? []));
    }
    for (const root of info.graph.nodes) if (!live.has(root)) yield { root, nodes: [root], rewrite: () => [] };
  },
};
