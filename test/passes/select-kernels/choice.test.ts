/** Which kernel is taken: the default, a measured one, one of the declared order; and what is said where there is none. */

import { describe, expect, it } from "vitest";
import { parse } from "../../../src/ir/parse.js";
import type { TuningRow } from "../../../src/kernels/tuning.js";
import { selectKernels } from "../../../src/passes/lower/select-kernels.js";
import { runPrograms } from "../../../src/passes/run.js";
import { TARGET } from "../lowering.js";

const linear = (rows: number, name = `prefill_t${rows}`) =>
  parse(`func @${name}(%x: bf16[T, 32]) -> (y: f32[T, 16]) bounds {T: 1..${rows}, S: 1..1, C: 1..1} {
  %0 = weight {name = "w"} : bf16[16, 32]
  %1 = pack %0 {layout = panel64, dtype = bf16} : bf16[16, 32]@panel64
  %2 = linear %x, %1 {dtype = f32} : f32[T, 16]
  return y = %2
}
`);

const row = (rows: number, k_block: number, problem = {}): TuningRow => ({
  op: "linear",
  problem: { n: 16, k: 32, x: "bf16", out: "f32", ...problem },
  layouts: { weight: "panel64" },
  rows,
  winner: { kernel: "linear", params: { tile_rows: 4, k_block, row_block: 96, ahead: 1024 }, seconds: 1e-6 },
});

function blockOf(rows: number, table?: readonly TuningRow[], deterministic = false): unknown {
  const tuning = table && { device: "test", rows: table };
  const { graphs } = runPrograms([linear(rows)], [selectKernels({ target: TARGET, tuning, deterministic })]);
  const launch = graphs[0]?.nodes.find((node) => node.op === "launch");
  return launch?.op === "launch" && launch.attrs.params.k_block;
}

describe("measured rows", () => {
  it("win over the default, the nearest first", () => {
    const standard = blockOf(64);
    expect(blockOf(64, [])).toBe(standard);
    expect(blockOf(64, [row(64, 128), row(16, 512)])).toBe(128);
    expect(blockOf(16, [row(64, 128), row(16, 512)])).toBe(512);
    expect(blockOf(40, [row(64, 128), row(16, 512)])).toBe(128);
    // No reduction order is touched by a tiling.
    expect(blockOf(64, [row(64, 128)], true)).toBe(128);
  });

  it("of another problem, or of values that the kernel no longer has, say nothing", () => {
    const standard = blockOf(64);
    for (const other of [row(64, 128, { n: 16 * 64 }), row(64, 128, { x: "f32" }), row(4096, 128), row(64, 100)])
      expect(blockOf(64, [other])).toBe(standard);
  });

  it("give each bucket its own", () => {
    const tuning = { device: "test", rows: [row(64, 128), row(16, 512)] };
    const small = linear(16);
    const buckets = [small, { ...small, name: "prefill_t64", bounds: { ...small.bounds, T: { min: 1, max: 64 } } }];
    const { graphs } = runPrograms(buckets, [selectKernels({ target: TARGET, tuning })]);
    const blocks = graphs.map(({ nodes }) => nodes.flatMap((node) => (node.op === "launch" ? [node.attrs.params.k_block] : [])));
    expect(blocks).toEqual([[512], [128]]);
  });
});

describe("measured rows of a GPU", () => {
  const projection = (rows: number) =>
    parse(`func @decode_s${rows}(%x: bf16[S, 64]) -> (y: f32[S, 64]) bounds {T: 1..${rows}, S: 1..${rows}, C: 1..1} {
  %0 = weight {name = "w"} : bf16[64, 64]
  %1 = linear %x, %0 {dtype = f32} : f32[S, 64]
  return y = %1
}
`);
  const choice = (kernel: string, params: TuningRow["winner"]["params"], standard = kernel, rows = 16): TuningRow => ({
    op: "linear",
    problem: { n: 64, k: 64, x: "bf16", out: "f32", bias: false, weight_dtype: "bf16" },
    layouts: { weight: "row" },
    rows,
    winner: { kernel, params, seconds: 1e-6 },
    default: { kernel: standard, params: {}, seconds: 2e-6 },
  });
  const chosen = (rows: number, table: readonly TuningRow[], deterministic = false) => {
    const target = { ...TARGET, arch: "sm_90a" as const };
    const { graphs } = runPrograms([projection(rows)], [selectKernels({ target, tuning: { device: "test", rows: table }, deterministic })]);
    const launch = graphs[0]?.nodes.find((node) => node.op === "launch");
    if (launch?.op !== "launch") throw new Error("no launch");
    const { tile_rows, warps, columns } = launch.attrs.params;
    return { kernel: launch.attrs.kernel, tile_rows, warps, columns };
  };

  it("may name another kernel than the default", () => {
    const gemm = choice("cuda_gemm", { tile_rows: 64, columns: 64, stages: 4, turns: 1, cluster: 1 }, "cuda_linear_x16");
    expect(chosen(16, [])).toMatchObject({ kernel: "cuda_linear_x16" });
    expect(chosen(16, [gemm])).toEqual({ kernel: "cuda_gemm", tile_rows: 64, columns: 64, warps: undefined });
  });

  it("say nothing where the default is another kernel, nor of kernels that hold fewer rows", () => {
    const few = choice("cuda_linear", { tile_rows: 16 }, "cuda_linear", 8);
    const sixteen = choice("cuda_linear_x16", { tile_rows: 16 });
    expect(chosen(8, [few])).toMatchObject({ kernel: "cuda_linear", tile_rows: 16 });
    expect(chosen(4, [few])).toMatchObject({ kernel: "cuda_linear", tile_rows: 16 });
    expect(chosen(8, [sixteen])).toEqual(chosen(8, []));
    expect(chosen(16, [few])).toEqual(chosen(16, []));
    // Another problem's tiling may not even compile.
    expect(chosen(8, [{ ...few, problem: { ...few.problem, n: 128 } }])).toEqual(chosen(8, []));
  });

  it("that change the order of sums are passed over where bits count", () => {
    const standard = chosen(8, [], true);
    const other = standard.tile_rows === 16 ? 8 : 16;
    const reordered = choice(String(standard.kernel), { tile_rows: other }, String(standard.kernel), 8);
    expect(chosen(8, [reordered])).toMatchObject({ tile_rows: other });
    expect(chosen(8, [reordered], true)).toEqual(standard);
  });
});

describe("a node that no kernel fits", () => {
  it.each([
    ["an operand's type", "%1 = add %x, %x : bf16[T, 32]", "no kernel fits this add: add: adds no bf16"],
    [
      "an attribute",
      "%1 = rope %x, %p {heads = 2, head_dim = 16, theta = 10000, sections = [2, 2, 4], dtype = f32} : f32[T, 32]",
      "no kernel fits this rope: rope: sections for images",
    ],
  ])("by %s is named, with the reason", (_, line, message) => {
    const dtype = line.includes("bf16[T, 32]") ? "bf16" : "f32";
    const text = `func @decode(%x: ${dtype}[T, 32], %p: i32[T, 3]) -> (y: ${dtype}[T, 32]) bounds {T: 1..4, S: 1..4, C: 1..1} {
  ${line}
  return y = %1
}
`;
    const run = () => runPrograms([parse(text)], [selectKernels({ target: TARGET })]);
    expect(run).toThrow(
      expect.objectContaining({ code: "kernel-missing", kind: "unsupported", summary: message, place: "program decode" }),
    );
  });
});

describe("deterministic on a GPU", () => {
  it("takes kernels of the first one's order in every bucket", () => {
    const chosen = (rows: number, deterministic: boolean): unknown => {
      const graph = parse(`func @prefill_t${rows}(%x: bf16[T, 32]) -> (y: f32[T, 16]) bounds {T: 1..${rows}, S: 1..1, C: 1..1} {
  %0 = weight {name = "w"} : bf16[16, 32]
  %1 = pack %0 {layout = row, dtype = bf16} : bf16[16, 32]
  %2 = linear %x, %1 {dtype = f32} : f32[T, 16]
  return y = %2
}
`);
      const { graphs } = runPrograms([graph], [selectKernels({ target: { ...TARGET, arch: "sm_90a" }, deterministic })]);
      const launch = graphs[0]?.nodes.find((node) => node.op === "launch");
      return launch?.op === "launch" && launch.attrs.kernel;
    };
    const rows = [1, 8, 16, 64, 2048];
    expect(rows.map((n) => chosen(n, false))).toEqual([
      "cuda_linear_x1",
      "cuda_linear",
      "cuda_linear_x16",
      "cuda_linear_wide",
      "cuda_gemm",
    ]);
    expect(rows.map((n) => chosen(n, true))).toEqual([
      "cuda_linear_x1",
      "cuda_linear",
      "cuda_linear_rounds",
      "cuda_linear_rounds",
      "cuda_linear_rounds",
    ]);
  });
});
