/** Which launches of a decode step on a GPU are late, and who reads before its wait because of it. */

import { describe, expect, it } from "vitest";
import { parse } from "../../../src/ir/parse.js";
import { selectKernels } from "../../../src/passes/lower/select-kernels.js";
import { selectLayouts } from "../../../src/passes/lower/select-layouts.js";
import { runPrograms } from "../../../src/passes/run.js";
import { TARGET } from "../lowering.js";

const layer = (between: string, addend: string) =>
  parse(`func @decode_s8(%h: f32[T, 64], %a: bf16[T, 64]) -> (s: f32[T, 64]) bounds {T: 1..8, S: 1..8, C: 1..16} {
  %g = weight {name = "norm"} : bf16[64]
  %wr = weight {name = "gate"} : f32[4, 64]
  %x, %logits, %indices, %weights = norm_router %h, %g, %wr {k = 2, norm_min = 1e-12, eps = 1e-5, dtype = bf16} : bf16[T, 64], f32[T, 4], i32[T, 2], f32[T, 2]
  ${between}
  %wg = weight {name = "gate_up"} : bf16[4, 64, 64]
  %we = weight {name = "down"} : bf16[4, 64, 32]
  %s = moe_ffn %x, %indices, %weights, %wg, %we${addend} {group = 16, dtype = bf16} : f32[T, 64]
  return s = %s
}
`);

function marks(graph: ReturnType<typeof layer>): readonly (readonly [string, unknown, unknown])[] {
  const target = { ...TARGET, arch: "sm_90a" } as const;
  const { graphs } = runPrograms([graph], [selectLayouts({ target }), selectKernels({ target })]);
  return (graphs[0]?.nodes ?? []).flatMap((node) =>
    node.op === "launch" ? [[node.attrs.op, node.attrs.params.late, node.attrs.params.early] as const] : [],
  );
}

describe("late launches", () => {
  it("come between the router and the experts, of which the first is enough", () => {
    const shared = `%ws = weight {name = "up"} : bf16[128, 64]
  %b = linear_swiglu %x, %ws {group = 16, dtype = bf16} : bf16[T, 64]
  %wd = weight {name = "shared"} : bf16[64, 64]
  %y = linear %b, %wd {dtype = f32} : f32[T, 64]`;
    expect(marks(layer(shared, ", %y"))).toEqual([
      ["norm_router", undefined, undefined],
      ["linear_swiglu", true, undefined],
      ["linear", undefined, undefined],
      ["moe_ffn", undefined, true],
    ]);
  });

  it("are not to be had where the experts follow the router", () => {
    expect(marks(layer("", ""))).toEqual([
      ["norm_router", undefined, undefined],
      ["moe_ffn", undefined, undefined],
    ]);
  });
});
