/** What a pass is. Each lives in a file of its own name; run.ts applies them. */

import type { Graph } from "../ir/graph.js";
import type { Level } from "../ir/ops.js";
import type { Rule } from "../ir/rule.js";

interface PassHead {
  /** As in file name, command line and test folder. */
  readonly name: string;
  /** The highest level it accepts; levels nest. */
  readonly needs: Level;
  /** The lowest level that allows what it leaves. */
  readonly leaves: Level;
}

/** Rewrites each graph by rules until none matches. */
export interface RulePass extends PassHead {
  readonly rules: readonly Rule[];
  /** The programs that it is for; without it all. */
  readonly programs?: readonly string[];
}

/** Computes a new graph from each, or gives the same one back if there is nothing to do. */
export interface GraphPass extends PassHead {
  readonly run: (graph: Graph) => Graph;
}

/** Sees all programs of a model at once, e.g. to choose one layout for a weight that several read. Gives them back in the same order. */
export interface ProgramsPass extends PassHead {
  readonly runAll: (graphs: readonly Graph[]) => readonly Graph[];
}

export type Pass = RulePass | GraphPass | ProgramsPass;

export function definePass<P extends Pass>(pass: P): P {
  return Object.freeze(pass);
}
