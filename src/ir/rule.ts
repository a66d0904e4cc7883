/** What a rule is, and rules over patterns. rewrite.ts applies them. */

import { bug } from "../diagnostics.js";
import type { GraphInfo } from "./analysis.js";
import type { Node, Value } from "./graph.js";
import { type Bindings, type Captures, matchAll, type Patterns, unreachableNames } from "./match.js";
import type { Rebuild } from "./replace.js";

/** The value that takes the place of the root's only result, or pairs of a value of the old graph and what takes its place. */
export type Replacement = Value | readonly (readonly [old: Value, by: Value])[];

export interface Match {
  readonly root: Node;
  /** Nodes that the rewrite makes superfluous: each goes away unless somebody still reads one of its results. */
  readonly nodes: readonly Node[];
  /** Nodes that the new ones come from, if not all of `nodes`. */
  readonly from?: readonly Node[];
  readonly rewrite: (build: Rebuild) => Replacement;
}

/** Something that matched but for a guard. */
export interface NearMiss {
  readonly root: Node;
  readonly guard: string;
}

export interface Rule {
  readonly name: string;
  readonly find: (info: GraphInfo) => Iterable<Match | NearMiss>;
}

export interface RuleDefinition<M extends Patterns> {
  readonly name: string;
  /** The last entry is the root. */
  readonly match: M;
  /** Nodes of the pattern that stay as they are. */
  readonly keep?: readonly (keyof M & string)[];
  /** What makes it a match at all, beyond the pattern; nobody needs to be told when it does not hold. */
  readonly when?: (captures: Captures<M>, info: GraphInfo) => boolean;
  /** Named conditions; all must hold. The name answers "why not?". */
  readonly where?: { readonly [guard: string]: (captures: Captures<M>, info: GraphInfo) => boolean };
  readonly rewrite: (captures: Captures<M>, build: Rebuild, info: GraphInfo) => Replacement;
}

/** A rule over a pattern. */
export function rule<const M extends Patterns>({
  name,
  match,
  keep = [],
  when = () => true,
  where = {},
  rewrite,
}: RuleDefinition<M>): Rule {
  const names = Object.keys(match);
  const loose = unreachableNames(match);
  if (loose.length) throw bug(`rule ${name}: ${loose.join(", ")} can't be reached from the root, ${names.at(-1)}`);
  const rootOp = match[names.at(-1) as string]?.op;
  const goes = names.filter((entry) => !keep.includes(entry));
  const captured = (bindings: Bindings) => Object.fromEntries(bindings) as unknown as Captures<M>;
  function* find(info: GraphInfo): Iterable<Match | NearMiss> {
    for (const root of info.graph.nodes) {
      if (root.op !== rootOp) continue;
      const found = matchAll(match, root, info).flatMap((bindings): (Match | NearMiss)[] => {
        const captures = captured(bindings);
        if (!when(captures, info)) return [];
        const guard = Object.keys(where).find((name) => !where[name]?.(captures, info));
        const nodes = goes.map((entry) => bindings.get(entry) as Node);
        return [guard === undefined ? { root, nodes, rewrite: (build) => rewrite(captures, build, info) } : { root, guard }];
      });
      // Either order of a commutative op will do: a near miss only if all of them miss.
      const best = found.find((entry) => "rewrite" in entry) ?? found[0];
      if (best) yield best;
    }
  }
  return { name, find };
}
