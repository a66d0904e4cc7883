/**
 * Takes the rows that are wanted before computing them, not after: where only the last row of each sequence is read, the head, the last norm
 * and the last layer's MLP and output projection run on one row a sequence instead of one a token. A gather moves up through every op whose
 * rows are independent as long as nobody else reads what it computes; attention and the residual stream, which others read, stop it.
 *
 * Runs after fuse-moe, whose op has a row a token throughout (between its parts there are k rows a token, which a gather can't follow), and
 * before fuse-add-rms-norm and fuse-head-argmax, which then see the short rows.
 */

import type { GraphInfo } from "../../ir/analysis.js";
import type { LooseAttrs, LooseOperands, Node, NodeOf, Value } from "../../ir/graph.js";
import { hasTrait } from "../../ir/ops.js";
import type { Rebuild } from "../../ir/replace.js";
import type { Match, NearMiss, Rule } from "../../ir/rule.js";
import { type Dim, sameDim } from "../../ir/types.js";
import { definePass } from "../pass.js";

/** gather(f(x), rows) = f(gather(x, rows)), for f that treats rows one by one. */
const throughRowwise: Rule = {
  name: "through-rowwise",
  *find(info): Iterable<Match | NearMiss> {
    for (const root of info.graph.nodes) {
      const gathers = gathersOf(root, info);
      const [first] = gathers;
      if (!first) continue;
      const guard = refusal(root, gathers, info);
      if (guard) yield { root, guard };
      else yield { root, nodes: [root, ...gathers], from: [root], rewrite: (build) => gatherFirst(root, gathers, build) };
    }
  },
};

/** The gathers that read results of a node. */
function gathersOf(node: Node, info: GraphInfo): readonly NodeOf<"gather_rows">[] {
  return node.results.flatMap((result) =>
    info.readers(result).flatMap((reader) => (reader.op === "gather_rows" && reader.operands.x === result ? [reader] : [])),
  );
}

function refusal(node: Node, gathers: readonly NodeOf<"gather_rows">[], info: GraphInfo): string | undefined {
  const rows = gathers[0]?.operands.rows as Value;
  const all = rowsOf(node.results[0] as Value);
  const guards: { readonly [guard: string]: boolean } = {
    "its rows are independent": hasTrait(node.op, "rowwise") && hasTrait(node.op, "pure"),
    "what it reads has rows to choose from":
      rowOperands(node, all).length > 0 && rowOperands(node, all).every(({ type }) => type.kind === "tensor" && type.shape.length === 2),
    "all readers want the same rows": gathers.every((gather) => gather.operands.rows === rows),
    "nobody reads the other rows": node.results.every(
      (result) => !info.isReturned(result) && info.readers(result).every((reader) => gathers.some((gather) => gather === reader)),
    ),
    "fewer rows are wanted than there are": all !== undefined && !sameDim(all, rowsOf(rows) as Dim),
  };
  return Object.keys(guards).find((guard) => !guards[guard]);
}

function gatherFirst(node: Node, gathers: readonly NodeOf<"gather_rows">[], build: Rebuild): readonly (readonly [Value, Value])[] {
  const rows = gathers[0]?.operands.rows as Value;
  const all = rowsOf(node.results[0] as Value);
  const taken = new Map<Value, Value>();
  for (const x of rowOperands(node, all)) if (!taken.has(x)) taken.set(x, build.value("gather_rows", { x, rows }, {}));
  const operands: { [name: string]: Value | readonly Value[] | undefined } = {};
  for (const [name, entry] of Object.entries(node.operands as LooseOperands)) {
    operands[name] = Array.isArray(entry) ? entry.map((value) => taken.get(value) ?? value) : (taken.get(entry as Value) ?? entry);
  }
  const short = build.nodeLoose(node.op, operands, node.attrs as LooseAttrs);
  return gathers.map((gather) => [gather.results[0] as Value, short.results[node.results.indexOf(gather.operands.x)] as Value] as const);
}

/** Operands with as many rows as the result. Weights have fixed sizes, rows of tokens never do, so the size tells them apart. */
function rowOperands(node: Node, all: Dim | undefined): readonly Value[] {
  if (all === undefined || typeof all === "number") return [];
  const values = Object.values(node.operands as LooseOperands).flatMap((entry) => entry ?? []);
  return values.filter((value) => {
    const rows = rowsOf(value);
    return rows !== undefined && sameDim(rows, all);
  });
}

function rowsOf(value: Value): Dim | undefined {
  return value.type.kind === "tensor" ? value.type.shape[0] : undefined;
}

/** Two gathers of the same rows of the same x are one. */
const sameGather: Rule = {
  name: "same-gather",
  *find(info): Iterable<Match> {
    const seen = new Map<Value, NodeOf<"gather_rows">[]>();
    for (const root of info.nodesOf("gather_rows")) {
      const { x, rows } = root.operands;
      const before = seen.get(x)?.find((gather) => gather.operands.rows === rows);
      if (before) yield { root, nodes: [root], rewrite: () => before.results[0] as Value };
      else seen.set(x, [...(seen.get(x) ?? []), root]);
    }
  },
};

export const lastTokenHead = definePass({ name: "last-token-head", needs: "fused", leaves: "fused", rules: [sameGather, throughRowwise] });
