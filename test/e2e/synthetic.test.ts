/**
 * `--weights synthetic:<seed>`: any model of the family compiles from its config alone, and runs where it fits. What does not fit is refused when it is
 * loaded, not when it is built.
 */

import { totalmem } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, it } from "vitest";
import type { Engine, EngineInfo, Finish, Piece } from "../../src/host/api.js";
import { packageFiles, readManifest } from "./packages.js";
import { buildPackage, cliOk } from "./support.js";

const SMALL = "ernie-4.5-0.3b";
const LARGE = "ernie-4.5-300b-a47b";

interface DryRun {
  readonly programs: readonly { readonly name: string; readonly launches: number }[];
  readonly memory: { readonly weights: number; readonly kvBytesPerToken: number };
}

async function load(folder: string): Promise<Engine> {
  const { load } = (await import(pathToFileURL(join(folder, "index.js")).href)) as { load: () => Promise<Engine> };
  return await load();
}

describe(SMALL, () => {
  it("loads, tells what it is, and continues ids", async () => {
    const folder = await buildPackage(SMALL, "--weights", "synthetic:1");
    expect([...(await packageFiles(folder)).keys()].filter((path) => path.endsWith(".safetensors"))).toEqual([]);
    const manifest = await readManifest(folder);
    const engine = await load(folder);
    try {
      const info: EngineInfo = engine.info;
      // Every weight once: a decode step reads the whole of it, and the embedding is the head.
      const bytes = manifest.memory.weights;
      expect(info).toEqual({
        model: {
          architecture: "Ernie4_5ForCausalLM",
          parameters: 360_748_032,
          layers: 18,
          hiddenSize: 1024,
          vocabSize: 103_424,
          experts: 0,
          takesImages: false,
        },
        target: "cpu",
        arch: manifest.target.arch,
        activations: "bf16",
        threads: expect.any(Number),
        maxContext: expect.any(Number),
        maxBatch: 8,
        kvTokens: expect.any(Number),
        kvBlockSize: 32,
        kvFreeBlocks: info.kvTokens / info.kvBlockSize,
        weightBytes: bytes,
        // Each weight but the table of embeddings, which is the head too, is one factor of a multiplication and an addition; norms are counted with them.
        promptOperations: 2 * (360_748_032 - 103_424 * 1024),
        decodeBytes: bytes,
        decodeBytesByBatch: [bytes, bytes, bytes, bytes],
        // Keys and values of 18 layers, 2 heads of 128, 2 bytes each.
        kvBytesPerToken: 2 * 18 * 2 * 128 * 2,
        version: expect.any(String),
        buildId: manifest.build_id,
        // Beyond the interface: for logs and for the bench.
        prefillChunk: expect.any(Number),
        weights: "synthetic",
        runtime: expect.any(String),
      });
      expect(bytes).toBeGreaterThanOrEqual(2 * info.model.parameters);
      expect(bytes).toBeLessThan(2.01 * info.model.parameters);
      const first = await continueIds(engine);
      expect(first.length).toBe(8);
      expect(await continueIds(engine)).toEqual(first);
    } finally {
      await engine.dispose();
    }
  });

  it("has other weights for another seed", async () => {
    const folder = await buildPackage(SMALL, "--weights", "synthetic:2");
    const plan = (await packageFiles(folder)).get("build/src/plan.cpp") ?? "";
    expect(plan).toContain(".synthetic_seed = 2,");
  });
});

async function continueIds(engine: Engine): Promise<readonly number[]> {
  const ids: number[] = [];
  for await (const piece of engine.generate([11, 12, 13, 14, 15], { maxTokens: 8, temperature: 0 }) as AsyncIterable<Piece | Finish>)
    ids.push(...piece.ids);
  return ids;
}

describe.each([
  ["ernie-4.5-21b-a3b", 21.8e9],
  [LARGE, 299e9],
])("%s", (preset, parameters) => {
  it("compiles from its config alone", async () => {
    const { stdout } = await cliOk(["build", preset, "--weights", "synthetic:1", "--dry-run", "--json"]);
    const { programs, memory } = JSON.parse(stdout) as DryRun;
    expect(memory.weights / 2 / parameters).toBeGreaterThan(0.99);
    expect(memory.weights / 2 / parameters).toBeLessThan(1.02);
    expect(programs.map(({ name }) => name)).toEqual(expect.arrayContaining(["prefill_t16", "decode_s1", "score", "trace"]));
  });
});

describe(LARGE, () => {
  it("builds without its weights, and says at load that they do not fit", async ({ skip }) => {
    if (totalmem() > 500e9) return skip("this machine may hold it");
    const folder = await buildPackage(LARGE, "--weights", "synthetic:1");
    const files = Object.values((await readManifest(folder)).files);
    expect(files.reduce((sum, { bytes }) => sum + bytes, 0)).toBeLessThan(10e6);
    await expect(load(folder)).rejects.toMatchObject({
      code: "out-of-memory",
      message: expect.stringMatching(/the weights take \d+ MiB, and this process can take \d+ MiB/),
      hint: expect.any(String),
    });
  });
});
