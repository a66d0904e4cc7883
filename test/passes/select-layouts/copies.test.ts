/** One layout for all programs that read a weight, and a second copy only where it is allowed and pays. */

import { expect, it } from "vitest";
import { parse } from "../../../src/ir/parse.js";
import { type LayoutChoice, selectLayouts } from "../../../src/passes/lower/select-layouts.js";
import { runPrograms } from "../../../src/passes/run.js";
import { TARGET } from "../lowering.js";

const VOCAB = 4096;
/** A step that reads a table row by row, and one that multiplies with all of it: rows suit the one, panels are all that the other reads. */
const gather = parse(`func @prefill(%ids: i32[T]) -> (x: f32[T, 64]) bounds {T: 1..4096, S: 1..1, C: 1..1} {
  %0 = weight {name = "embed"} : bf16[${VOCAB}, 64]
  %1 = embedding %0, %ids {dtype = f32} : f32[T, 64]
  return x = %1
}
`);
const head = parse(`func @decode(%x: bf16[T, 64]) -> (y: f32[T, ${VOCAB}]) bounds {T: 1..1, S: 1..1, C: 1..1} {
  %0 = weight {name = "embed"} : bf16[${VOCAB}, 64]
  %1 = linear %x, %0 {dtype = f32} : f32[T, ${VOCAB}]
  return y = %1
}
`);

function choose(programs: readonly (typeof gather)[], copyLimit: number): { choices: LayoutChoice[]; layouts: string[][] } {
  const choices: LayoutChoice[] = [];
  const pass = selectLayouts({ target: TARGET, copyLimit, onChoice: (choice) => choices.push(choice) });
  const { graphs } = runPrograms(programs, [pass]);
  const layouts = graphs.map(({ nodes }) => nodes.flatMap((node) => (node.op === "pack" ? [node.attrs.layout] : [])));
  return { choices, layouts };
}

it("takes what each reader likes best when it is alone", () => {
  expect(choose([gather], 0).layouts).toEqual([["row"]]);
  expect(choose([head], 0).layouts).toEqual([["panel64"]]);
});

it("takes one copy that all can read, for the sum of all programs", () => {
  const { choices, layouts } = choose([gather, head], 0);
  expect(layouts).toEqual([["panel64"], ["panel64"]]);
  expect(choices).toEqual([
    {
      formats: [{ layout: "panel64", dtype: "bf16" }],
      bytes: VOCAB * 64 * 2,
      readers: ["embedding.table", "linear.weight"],
      seconds: expect.any(Number),
    },
  ]);
});

it("takes a second one where memory allows, and gives each reader its own", () => {
  const { choices, layouts } = choose([gather, head], VOCAB * 64 * 2);
  expect(layouts).toEqual([["row"], ["panel64"]]);
  expect(choices[0]?.formats.map(({ layout }) => layout).sort()).toEqual(["panel64", "row"]);
  expect(choices[0]?.bytes).toBe(2 * VOCAB * 64 * 2);
  expect(choose([gather, head], VOCAB * 64 * 2 - 1).layouts).toEqual([["panel64"], ["panel64"]]);
});
