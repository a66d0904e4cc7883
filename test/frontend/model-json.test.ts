import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadModel } from "../../src/frontend/load-model.js";
import { resolveRequest } from "../../src/frontend/model-json.js";
import { PRESET_NAMES } from "../../src/frontend/presets.js";
import { path, readJson, refusal } from "./support.js";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ernie-request-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const golden = path("test/goldens/dense");

/** Writes a model.json and resolves it. */
async function request(content: unknown, flags = {}) {
  const file = join(folder, "model.json");
  writeFileSync(file, typeof content === "string" ? content : JSON.stringify(content));
  return resolveRequest(file, flags, folder);
}

describe("inputs", () => {
  it("a folder, its config.json, and a model.json that names either", async () => {
    const byFolder = await resolveRequest(golden);
    expect(byFolder.source).toMatchObject({ kind: "folder", folder: golden, hasWeights: true });
    expect(byFolder).toMatchObject({
      target: "cpu",
      arch: "native",
      activations: "bf16",
      deterministic: false,
      weights: { kind: "pack" },
      tuning: null,
      threads: null,
      out: null,
    });
    const byConfig = await resolveRequest(join(golden, "config.json"));
    expect(byConfig).toMatchObject({ source: { kind: "config", folder: golden, hasWeights: true }, config: byFolder.config });
    for (const model of [golden, join(golden, "config.json")]) expect((await request({ model })).config).toEqual(byFolder.config);
  });

  it.each(PRESET_NAMES)("the preset %s, by itself and in a model.json", async (name) => {
    const flags = { weights: "synthetic:7" };
    const direct = await resolveRequest(name, flags);
    expect(direct).toMatchObject({
      source: { kind: "preset", name, folder: null },
      weights: { kind: "synthetic", seed: 7 },
      limits: { maxContext: 8192 },
    });
    expect((await request({ model: name, weights: "synthetic:7" })).config).toEqual(direct.config);
    expect((await resolveRequest(name, { dryRun: true })).weights).toEqual({ kind: "pack" });
    const loaded = await loadModel(direct);
    expect([loaded.checkpoint, loaded.text.chat, loaded.warnings]).toEqual([null, null, []]);
    expect(loaded.text.text).toMatchObject({ vocab_size: 103424, stop_ids: [2] });
  });

  it("a config.json without weights", async () => {
    writeFileSync(join(folder, "config.json"), JSON.stringify(readJson("test/goldens/moe/config.json")));
    const error = await refusal(() => resolveRequest("config.json", {}, folder));
    expect(error.toJSON()).toMatchObject({ code: "weights-missing", place: "--weights" });
    expect(error.hint).toContain("--weights synthetic:1");
    const dry = await resolveRequest("config.json", { dryRun: true }, folder);
    expect((await loadModel(dry)).checkpoint).toBe(null);
    expect((await refusal(() => resolveRequest(folder, {}, folder))).code).toBe("weights-missing");
    rmSync(join(folder, "config.json"));
  });

  it.each([
    ["baidu/ERNIE-4.5-0.3B-PT", "did you mean the preset ernie-4.5-0.3b?"],
    ["ERNIE-4.5-21B-A3B-Base-PT", "did you mean the preset ernie-4.5-21b-a3b?"],
    ["ERNIE-4.5-21B-A3B-Thinking", "did you mean the preset ernie-4.5-21b-a3b?"],
    ["ernie-4.5-300b", "did you mean the preset ernie-4.5-300b-a47b?"],
    ["ernie4.5-0.3b", "did you mean the preset ernie-4.5-0.3b?"],
    ["./nowhere", "a model folder, a config.json, a model.json or one of the presets"],
    ["a\u0000b", "a model folder"],
    ["", "--help"],
  ])("%j does not exist", async (input, hint) => {
    const error = await refusal(() => resolveRequest(input, {}, folder));
    expect(error.code).toBe("input-not-found");
    expect(error.hint).toContain(hint);
  });

  it.each(["ERNIE-4.5-VL-28B-A3B-PT", "baidu/ERNIE-4.5-VL-424B-A47B-Base-Paddle", "ERNIE-4.5-VL-28B-A3B-Thinking"])(
    "%s is not supported yet",
    async (input) => {
      expect((await refusal(() => resolveRequest(input, {}, folder))).kind).toBe("unsupported");
    },
  );

  it("a folder without config.json", async () => {
    const empty = join(folder, "empty");
    mkdirSync(empty);
    expect((await refusal(() => resolveRequest(empty))).code).toBe("input-no-config");
    writeFileSync(join(empty, "model.json"), "{}");
    expect((await refusal(() => resolveRequest(empty))).hint).toBe(`did you mean ${join(empty, "model.json")}?`);
  });

  it("a folder whose weights are in another format: what is there is named", async () => {
    const other = join(folder, "other");
    mkdirSync(other);
    writeFileSync(join(other, "config.json"), JSON.stringify(readJson("test/goldens/moe/config.json")));
    writeFileSync(join(other, "pytorch_model.bin"), "");
    expect((await refusal(() => resolveRequest(other))).summary).toContain("pytorch_model.bin");
  });
});

describe("a request's values", () => {
  it("relative paths start at the file's folder, flags at the working directory", async () => {
    mkdirSync(join(folder, "inner"), { recursive: true });
    const file = join(folder, "inner", "request.json");
    writeFileSync(
      file,
      JSON.stringify({ $schema: "x", model: "ernie-4.5-0.3b", weights: "synthetic:1", out: "../built", tuning: "t.json" }),
    );
    expect(await resolveRequest(file, {}, "/")).toMatchObject({ out: join(folder, "built"), tuning: join(folder, "inner", "t.json") });
    expect(await resolveRequest(file, { out: "o", tuning: "u.json" }, "/tmp")).toMatchObject({ out: "/tmp/o", tuning: "/tmp/u.json" });
  });

  it("flags win over the file", async () => {
    const written = {
      model: golden,
      activations: "bf16",
      deterministic: true,
      threads: 2,
      arch: "x86-64-v3",
      limits: { maxBatch: 3, maxContext: 100 },
    };
    const flags = { activations: "f32", deterministic: false, threads: 4, arch: "x86-64-v4", maxBatch: 5 };
    expect(await request(written, flags)).toMatchObject({
      activations: "f32",
      deterministic: false,
      threads: 4,
      arch: "x86-64-v4",
      limits: { maxBatch: 5, maxContext: 100 },
    });
    expect(await request(written)).toMatchObject({
      activations: "bf16",
      deterministic: true,
      threads: 2,
      arch: "x86-64-v3",
      limits: { maxBatch: 3 },
    });
  });

  it("limits have defaults that follow from the model and from each other", async () => {
    expect((await request({ model: golden })).limits).toEqual({
      maxContext: 4096,
      maxBatch: 8,
      kvTokens: 4096,
      prefillChunk: 512,
      blockSize: 32,
    });
    expect((await request({ model: golden, limits: { kvTokens: 100, blockSize: 16 } })).limits).toMatchObject({
      maxContext: 100,
      kvTokens: 112,
    });
    expect((await request({ model: golden, limits: { maxContext: 50 } })).limits).toMatchObject({ maxContext: 50, kvTokens: 64 });
  });
});

describe("bad requests", () => {
  it.each([
    ["an unknown key", { modle: 1 }, "request-unknown-key", "modle", "did you mean model?"],
    ["an unknown limit", { limits: { max_context: 5 } }, "request-unknown-key", "limits.max_context", "did you mean maxContext?"],
    ["a hostile key", JSON.parse('{"__proto__": {"target": "cpu"}}') as object, "request-unknown-key", "__proto__", undefined],
    ["another type", { threads: "4" }, "request-value", "threads", undefined],
    ["a fraction", { limits: { maxBatch: 1.5 } }, "request-value", "limits.maxBatch", undefined],
    ["zero", { limits: { maxContext: 0 } }, "request-value", "limits.maxContext", undefined],
    ["a negative number", { limits: { prefillChunk: -1 } }, "request-value", "limits.prefillChunk", undefined],
    ["a huge number", { limits: { maxBatch: 1e9 } }, "request-value", "limits.maxBatch", undefined],
    ["a block that is no multiple", { limits: { blockSize: 24 } }, "request-value", "limits.blockSize", undefined],
    ["limits of another type", { limits: [] }, "request-value", "limits", undefined],
    ["an unknown value", { activations: "bf-16" }, "request-value", "activations", "did you mean bf16?"],
    ["an unknown arch", { arch: "x86-64-v5" }, "request-value", "arch", "did you mean x86-64-v3?"],
    ["a bad seed", { weights: "synthetic:-1" }, "request-value", "weights", undefined],
    ["an endless seed", { weights: "synthetic:99999999999" }, "request-value", "weights", undefined],
    ["an empty path", { out: "" }, "request-value", "out", undefined],
    ["f32 on a GPU", { target: "cuda", activations: "f32" }, "request-activations-unsupported", "activations", undefined],
    ["one launch a step on a CPU", { decode: "persistent" }, "request-decode-unsupported", "decode", undefined],
    [
      "one launch a step of a declared order",
      { target: "cuda", decode: "persistent", deterministic: true },
      "request-decode-unsupported",
      "decode",
      undefined,
    ],
    ["a quantisation", { quantization: "wint4" }, "request-quantization-unsupported", "quantization", undefined],
    ["adapters", { adapters: ["a"] }, "request-adapters-unsupported", "adapters", undefined],
    ["a context longer than the model's", { limits: { maxContext: 5000 } }, "request-context-too-long", "limits.maxContext", undefined],
    ["a cache smaller than a context", { limits: { maxContext: 100, kvTokens: 50 } }, "request-kv-too-small", "limits.kvTokens", undefined],
  ])("%s", async (_, content, code, key, hint) => {
    const error = await refusal(() => request(`${JSON.stringify({ model: golden }).slice(0, -1)}, ${JSON.stringify(content).slice(1)}`));
    expect(error.toJSON()).toMatchObject({ code, place: `${join(folder, "model.json")}: ${key}` });
    expect(error.summary).toMatch(/found .*expected /);
    if (hint !== undefined) expect(error.hint).toBe(hint);
  });

  it.each([
    [{ activations: "f16" }, "--activations"],
    [{ threads: 0 }, "--threads"],
    [{ maxContext: 5000 }, "--max-context"],
    [{ target: "rocm" }, "--target"],
    [{ target: "cuda", activations: "f32" }, "--activations"],
    [{ weights: "none" }, "--weights"],
    [{ out: "" }, "-o"],
  ])("a flag: %j", async (flags, place) => {
    expect((await refusal(() => resolveRequest(golden, flags))).place).toBe(place);
  });

  it("a model that is missing, JSON that is none, a key twice", async () => {
    expect((await refusal(() => request({ target: "cpu" }))).code).toBe("request-missing-key");
    expect((await refusal(() => request({ model: "./nowhere" }))).place).toBe(`${join(folder, "model.json")}: model`);
    expect((await refusal(() => request("{"))).code).toBe("json-syntax");
    expect((await refusal(() => request(`{"model": "a", "model": "b"}`))).code).toBe("json-duplicate-key");
    expect((await refusal(() => request({ model: 5 }))).place).toBe(`${join(folder, "model.json")}: model`);
  });
});

it("every key of the schema is described", () => {
  const check = (schema: { [key: string]: unknown }, name: string): void => {
    expect(schema.description, name).toMatch(/\w{3}/);
    for (const [key, value] of Object.entries((schema.properties ?? {}) as object))
      check(value as { [key: string]: unknown }, `${name}.${key}`);
  };
  check(readJson("schema/model.schema.json"), "request");
});
