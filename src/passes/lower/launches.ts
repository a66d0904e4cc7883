/** Launches by the names of the op that they stand for. */

import { bug } from "../../diagnostics.js";
import type { NodeOf, Value } from "../../ir/graph.js";
import { isOpName, opDef } from "../../ir/ops.js";

/** The operands of a launch by their names in its op. */
export function namedOperands(node: NodeOf<"launch">): readonly (readonly [string, Value])[] {
  const { op, present } = node.attrs;
  if (!isOpName(op)) throw bug(`a launch of ${op}`);
  const names = opDef(op).operands.filter((_, i) => present[i] === 1);
  return names.map((name, i) => [name.replace(/[?*]$/, ""), node.operands.args[i] as Value]);
}
