/** Bytes that a step reads: a row of the table that is only gathered, the chosen experts, all else whole. */

import { expect, it } from "vitest";
import { parse } from "../../../src/ir/parse.js";
import { weightTraffic } from "../../../src/passes/plan/weight-traffic.js";
import { runPrograms } from "../../../src/passes/run.js";
import { loweringPasses } from "../lowering.js";

const graph =
  parse(`func @decode(%ids: i32[T], %x: f32[T, 32]) -> (h: f32[T, 32], y: f32[T, 32], z: f32[T, 16]) bounds {T: 1..1, S: 1..1, C: 1..1} {
  %0 = weight {name = "embed"} : bf16[1000, 32]
  %1 = embedding %0, %ids {dtype = f32} : f32[T, 32]
  %2 = weight {name = "router"} : f32[16, 32]
  %3, %4, %5 = moe_router %1, %2 {k = 2, norm_min = 1e-12} : f32[T, 16], i32[T, 2], f32[T, 2]
  %6 = weight {name = "gate_up"} : bf16[16, 32, 32]
  %7 = weight {name = "down"} : bf16[16, 32, 16]
  %8 = moe_ffn %x, %4, %5, %6, %7 {group = 16, dtype = f32} : f32[T, 32]
  %9 = weight {name = "w"} : bf16[16, 32]
  %10 = linear %x, %9 {dtype = f32} : f32[T, 16]
  return h = %1, y = %8, z = %10
}
`);

it("counts what is read", () => {
  const [, layouts, kernels, weights] = loweringPasses();
  const planned = runPrograms([graph], [layouts, kernels, weights]).graphs[0];
  if (!planned) throw new Error("no graph");
  const [router, expert, linear] = [16 * 32 * 4, (32 * 32 + 32 * 16) * 2, 16 * 32 * 2];
  expect(weightTraffic(planned, 1)).toBe(32 * 2 + router + 2 * expert + linear);
  // Two of 16 a row: an expert that no row chose is not read.
  const chosen = 1 - (1 - 2 / 16) ** 4;
  const experts = Math.round(chosen * 16 * 32 * 32 * 2) + Math.round(chosen * 16 * 32 * 16 * 2);
  expect(weightTraffic(planned, 4)).toBe(4 * 32 * 2 + router + experts + linear);
  // All experts are read once there are rows enough.
  expect(weightTraffic(planned, 100)).toBe(100 * 32 * 2 + router + 16 * expert + linear);
});
