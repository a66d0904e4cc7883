/** The runner: dumps, limits, stops, names, and what it does when a pass is wrong. */

import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { parse } from "../../src/ir/parse.js";
import { print } from "../../src/ir/print.js";
import { definePass } from "../../src/passes/pass.js";
import { FUSION_PASSES } from "../../src/passes/pipeline.js";
import { runPipeline, runPrograms } from "../../src/passes/run.js";

const graph = parse(`func @block(%h: f32[S, 8], %a: f32[S, 8]) -> (logits: f32[S, 16], ids: i32[S]) bounds {S: 1..4} {
  %s = add %h, %a : f32[S, 8]
  %n = weight {name = "norm"} : bf16[8]
  %y = rms_norm %s, %n {eps = 1e-5, dtype = f32} : f32[S, 8]
  %w = weight {name = "head"} : bf16[16, 8]
  %z = linear %y, %w {dtype = f32} : f32[S, 16]
  %i = argmax %z : i32[S]
  return logits = %z, ids = %i
}`);

const folders: string[] = [];
function folder(): string {
  folders.push(mkdtempSync(join(tmpdir(), "ernie-passes-")));
  return folders.at(-1) as string;
}
afterAll(() => {
  for (const path of folders) rmSync(path, { recursive: true });
});

const wrong = definePass({
  name: "wrong",
  needs: "plan",
  leaves: "model",
  run: (g) => ({ ...g, nodes: [...g.nodes].reverse() }),
});

describe("runPipeline", () => {
  it("dumps one numbered file a pass, which says when nothing changed", () => {
    const dumpDir = folder();
    runPipeline(graph, FUSION_PASSES, { dumpDir });
    const files = readdirSync(dumpDir).sort();
    expect(files).toEqual([
      "00-input.ir",
      "01-canonicalize.ir",
      "02-fuse-qkv.ir",
      "03-fuse-gate-up.ir",
      "04-fuse-rope-kv-append.ir",
      "05-fuse-moe.ir",
      "06-last-token-head.ir",
      "07-fuse-add-rms-norm.ir",
      "08-fuse-head-argmax.ir",
      "09-canonicalize.ir",
    ]);
    expect(readFileSync(join(dumpDir, "02-fuse-qkv.ir"), "utf8")).toBe("// fuse-qkv\n// nothing changed\n");
    const changed = readFileSync(join(dumpDir, "07-fuse-add-rms-norm.ir"), "utf8");
    expect(changed.startsWith("// fuse-add-rms-norm: sum-then-norm x1\nfunc @block")).toBe(true);
    expect(print(parse(changed))).toBe(print(runPipeline(graph, FUSION_PASSES, { stopAfter: "fuse-add-rms-norm" }).graph));
  });

  it("reports each pass with its time", () => {
    const seen: string[] = [];
    const { reports } = runPipeline(graph, FUSION_PASSES, {
      onPass: ({ pass, milliseconds }) => seen.push(`${pass} ${milliseconds >= 0}`),
    });
    expect(seen).toEqual(FUSION_PASSES.map(({ name }) => `${name} true`));
    expect(reports.filter(({ changed }) => changed).map(({ pass }) => pass)).toEqual(["fuse-add-rms-norm", "fuse-head-argmax"]);
  });

  it("counts rewrites for --limit", () => {
    const ops = (limit: number) => runPipeline(graph, FUSION_PASSES, { limit }).graph.nodes.map(({ op }) => op);
    expect(runPipeline(graph, FUSION_PASSES, { limit: 0 }).graph).toBe(graph);
    expect(ops(1)).toEqual(["weight", "add_rms_norm", "weight", "linear", "argmax"]);
    expect(ops(2)).toEqual(["weight", "add_rms_norm", "weight", "head_argmax"]);
  });

  it("leaves passes out and stops after one", () => {
    const { reports } = runPipeline(graph, FUSION_PASSES, { disable: ["canonicalize", "fuse-qkv"], stopAfter: "fuse-moe" });
    expect(reports.map(({ pass }) => pass)).toEqual(["fuse-gate-up", "fuse-rope-kv-append", "fuse-moe"]);
    expect(() => runPipeline(graph, FUSION_PASSES, { disable: ["fuse-qvk"] })).toThrow(
      /there is no pass "fuse-qvk"[\s\S]*passes: canonicalize, fuse-qkv/,
    );
    expect(() => runPipeline(graph, FUSION_PASSES, { stopAfter: "none" })).toThrow(/unknown-pass/);
  });

  it("blames the pass that leaves a wrong graph", () => {
    expect(() => runPipeline(graph, [wrong])).toThrow(
      expect.objectContaining({ kind: "bug", code: "ir-undefined-value", message: expect.stringContaining("after wrong: ") as string }),
    );
    expect(runPipeline(graph, [wrong], { verify: false }).graph.nodes[0]?.op).toBe("argmax");
  });

  it("refuses a graph above the level that a pass takes", () => {
    const fused = runPipeline(graph, FUSION_PASSES).graph;
    const early = definePass({ name: "early", needs: "model", leaves: "model", run: (g) => g });
    expect(() => runPipeline(fused, [early])).toThrow(/early takes graphs up to the level model, @block is at fused/);
  });
});

describe("runPrograms", () => {
  it("runs a pass over all programs of a model, and hands them all to one that wants them", () => {
    const other = parse(print(graph).replace("@block", "@other"));
    const names: string[] = [];
    const all = definePass({
      name: "all",
      needs: "fused",
      leaves: "fused",
      runAll: (graphs) => {
        names.push(...graphs.map((g) => g.name));
        return graphs;
      },
    });
    const dumpDir = folder();
    const { graphs, reports } = runPrograms([graph, other], [...FUSION_PASSES, all], { dumpDir });
    expect(names).toEqual(["block", "other"]);
    expect(graphs.map(({ nodes }) => nodes.length)).toEqual([4, 4]);
    expect(reports.find(({ pass }) => pass === "fuse-head-argmax")?.applied).toHaveLength(2);
    expect(readFileSync(join(dumpDir, "00-input.ir"), "utf8").match(/^func @\w+/gm)).toEqual(["func @block", "func @other"]);
  });
});
