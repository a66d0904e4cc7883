/** Rules over weight expressions: what a checkpoint keeps joined and the graph takes apart need not be cut and joined again. */

import { type NodeOf, resultOf } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import { type Rule, rule } from "../../ir/rule.js";
import { sameType } from "../../ir/types.js";

/** transpose(transpose(w)) = w. */
const transposeTwice = rule({
  name: "transpose-twice",
  match: { inner: op("transpose", { x: "w" }), outer: op("transpose", { x: "inner" }) },
  when: ({ w, outer }) => sameType(w.type, resultOf(outer).type),
  rewrite: ({ w }) => w,
});

/** slice_rows(w, all rows) = w. */
const wholeSlice = rule({
  name: "slice-of-all",
  match: { y: op("slice_rows", { x: "w" }) },
  when: ({ w, y }) => sameType(w.type, resultOf(y).type),
  rewrite: ({ w }) => w,
});

/** slice_rows(slice_rows(w, a, n), b, m) = slice_rows(w, a + b, m). */
const sliceOfSlice = rule({
  name: "slice-of-slice",
  match: { inner: op("slice_rows", { x: "w" }), outer: op("slice_rows", { x: "inner" }) },
  rewrite: ({ w, inner, outer }, build) =>
    build.value("slice_rows", { x: w }, { start: inner.attrs.start + outer.attrs.start, length: outer.attrs.length }),
});

/** concat_rows(w) = w. */
const concatOfOne: Rule = {
  name: "concat-of-one",
  *find(info) {
    for (const root of info.nodesOf("concat_rows")) {
      const [only, second] = root.operands.parts;
      if (only && !second && sameType(only.type, resultOf(root).type)) yield { root, nodes: [root], rewrite: () => only };
    }
  },
};

/** concat_rows(.., slice_rows(w, a, n), slice_rows(w, a + n, m), ..) = concat_rows(.., slice_rows(w, a, n + m), ..): a fused tensor of a checkpoint stays whole. */
const concatOfSlices: Rule = {
  name: "concat-of-slices",
  *find(info) {
    for (const root of info.nodesOf("concat_rows")) {
      const { parts } = root.operands;
      const slices = parts.map((part) => info.producer(part)).map((node) => (node?.op === "slice_rows" ? node : undefined));
      const at = slices.findIndex((slice, i) => slice && follows(slice, slices[i + 1]));
      if (at < 0) continue;
      const [first, second] = [slices[at] as NodeOf<"slice_rows">, slices[at + 1] as NodeOf<"slice_rows">];
      yield {
        root,
        nodes: [root],
        rewrite: (build) => {
          const joined = build.value(
            "slice_rows",
            { x: first.operands.x },
            { start: first.attrs.start, length: first.attrs.length + second.attrs.length },
          );
          return build.value("concat_rows", { parts: [...parts.slice(0, at), joined, ...parts.slice(at + 2)] }, {});
        },
      };
    }
  },
};

function follows(slice: NodeOf<"slice_rows">, next: NodeOf<"slice_rows"> | undefined): boolean {
  return next !== undefined && next.operands.x === slice.operands.x && next.attrs.start === slice.attrs.start + slice.attrs.length;
}

export const weightRules: readonly Rule[] = [transposeTwice, wholeSlice, sliceOfSlice, concatOfOne, concatOfSlices];
