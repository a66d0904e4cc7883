/**
 * The plan of a weight is its expression: packed as planned, every element lies where its layout says and has the value that the reference gives the
 * expression. That the packer packs as planned is shown in test/weights.
 */

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Value } from "../../../src/ir/graph.js";
import type { TensorType } from "../../../src/ir/types.js";
import { selectKernels } from "../../../src/passes/lower/select-kernels.js";
import { selectLayouts } from "../../../src/passes/lower/select-layouts.js";
import { planWeights, type WeightPlan } from "../../../src/passes/plan/plan-weights.js";
import { resolvePackPlan } from "../../../src/passes/plan/resolve-pack-plan.js";
import { runPipeline } from "../../../src/passes/run.js";
import { evaluate } from "../../../src/reference/evaluate.js";
import type { RefTensor } from "../../../src/reference/tensor.js";
import { openCheckpoint } from "../../../src/weights/checkpoint.js";
import { bf16ToF32, f32ToBf16 } from "../../../src/weights/half.js";
import { writeSafetensors } from "../../../src/weights/safetensors-write.js";
import { packReference, placeOf } from "../../weights/pack-reference.js";
import { temporaryFolder } from "../../weights/temporary-folder.js";
import { TARGET } from "../lowering.js";
import { environment, Random, Soup } from "../soup.js";

const seeds = fc.noShrink(fc.integer({ min: 0, max: 2 ** 31 - 1 }));

/** An expression of a matrix [n, k], of tensors that a checkpoint might have; `joins`: also of several. */
function matrix(soup: Soup, n: number, k: number, joins = true): Value {
  const { b, random } = soup;
  const whole = (rows: number): Value =>
    random.chance(0.5) ? soup.weight([rows, k]) : b.value("transpose", { x: soup.weight([k, rows]) }, {});
  if (joins && n > 1 && random.chance(0.4)) {
    const cut = random.int(1, n - 1);
    const parts = [matrix(soup, cut, k), matrix(soup, n - cut, k)];
    return b.value("concat_rows", { parts }, {});
  }
  if (random.chance(0.5)) return whole(n);
  const start = random.int(0, 3);
  return b.value("slice_rows", { x: whole(start + n + random.int(0, 3)) }, { start, length: n });
}

/** Readers of three weights: a matrix and its bias, gate and up in turns, and experts. */
function program(random: Random) {
  const soup = new Soup(random);
  const { b } = soup;
  const x = soup.rows("f32", 16);
  const n = random.int(1, 90);
  const bias = random.chance(0.5) ? soup.weight([n]) : undefined;
  const y = b.value("linear", { x, weight: matrix(soup, n, 16), bias }, { dtype: "f32" });
  const group = random.pick([8, 16, 32]);
  const width = group * random.int(1, 3);
  const turns = b.value("interleave_rows", { a: matrix(soup, width, 16, false), b: matrix(soup, width, 16, false) }, { group });
  const gated = b.value("linear_swiglu", { x, weight: turns }, { group, dtype: "f32" });
  const experts = random.int(2, 3);
  const gate = soup.weight([experts, 16], "f32");
  const [, indices] = b.node("moe_router", { x, gate }, { k: 1, norm_min: 1e-12 }).results as readonly [Value, Value, Value];
  const rows = random.int(1, 70);
  const stack = random.chance(0.5)
    ? b.value("stack", { parts: Array.from({ length: experts }, () => matrix(soup, rows, 16)) }, {})
    : soup.weight([experts, rows, 16]);
  const chosen = b.value("expert_linear", { x, indices, weight: stack }, { dtype: "f32" });
  return soup.finish({ y, gated, chosen }, 0);
}

describe("planned weights", () => {
  it("are the graph's weights", async () => {
    await fc.assert(
      fc.asyncProperty(seeds, async (seed) => {
        const packedGraph = runPipeline(program(new Random(seed)), [
          selectLayouts({ target: TARGET }),
          selectKernels({ target: TARGET }),
        ]).graph;
        let plan: WeightPlan = { weights: [], bytes: 0 };
        runPipeline(packedGraph, [
          planWeights((made) => {
            plan = made;
          }),
        ]);
        expect(plan.weights.length).toBeGreaterThanOrEqual(4);

        const checkpoint = await openCheckpoint(
          await writeCheckpoint(packedGraph.nodes.flatMap((node) => (node.op === "weight" ? [node] : []))),
        );
        const files = await Promise.all(checkpoint.files.map(({ path }) => readFile(path)));
        const packed = resolvePackPlan(plan, checkpoint);
        const expected = packsInOrder(packedGraph);
        expect(packed.weights.length).toBe(expected.length);
        for (const [i, { offset: _, ...weight }] of packed.weights.entries()) {
          const bytes = packReference(weight, files);
          const { data, shape } = expected[i] as RefTensor;
          const [slabs, n, k] = weight.shape;
          expect(slabs * n * k).toBe(data.length);
          const size = bytes.length / slabs / (weight.dtype === "bf16" ? 2 : 4);
          for (let at = 0; at < data.length; at++) {
            const [slab, row, col] = [Math.floor(at / (n * k)), Math.floor(at / k) % n, at % k];
            const place = slab * size + placeOf(weight.layout, n, k, row, col);
            const found = weight.dtype === "bf16" ? bf16ToF32(bytes.readUInt16LE(place * 2)) : bytes.readFloatLE(place * 4);
            if (found !== data[at])
              expect.fail(`${weight.id} ${shape.join("x")}: found ${found} at ${[slab, row, col]}, expected ${data[at]}`);
          }
        }
      }),
      { numRuns: 25 },
    );
  });
});

/** What the reference makes of each packed weight, in the order of their readers. */
function packsInOrder(graph: Parameters<typeof evaluate>[0]): readonly RefTensor[] {
  const packs = new Set<Value>(graph.nodes.flatMap((node) => (node.op === "pack" ? node.results : [])));
  const read: Value[] = [];
  for (const node of graph.nodes)
    if (node.op === "launch") for (const value of node.operands.args) if (packs.has(value) && !read.includes(value)) read.push(value);
  const nodes = graph.nodes.filter(({ op }) => op !== "launch");
  const returns = read.map((value, i) => ({ name: `w${i}`, value }));
  return Object.values(evaluate({ ...graph, params: [], nodes, returns }, {}, environment)) as RefTensor[];
}

async function writeCheckpoint(
  weights: readonly { readonly attrs: { readonly name: string }; readonly results: readonly Value[] }[],
): Promise<string> {
  const folder = await temporaryFolder();
  const tensors = weights.map(({ attrs: { name }, results: [value] }) => {
    const type = value?.type as TensorType;
    const { data } = environment.weights(name, type);
    const shape = type.shape as readonly number[];
    return type.dtype === "bf16"
      ? ({ name, dtype: "BF16", shape, data: Uint16Array.from(data, f32ToBf16) } as const)
      : ({ name, dtype: "F32", shape, data: Float32Array.from(data) } as const);
  });
  await writeSafetensors(join(folder, "model.safetensors"), tensors);
  return folder;
}
