import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { Diagnostic } from "../../src/diagnostics.js";
import { openCheckpoint } from "../../src/weights/checkpoint.js";
import { readFloats, readIntegers } from "../../src/weights/read-tensor.js";
import { writeSafetensors } from "../../src/weights/safetensors-write.js";
import { temporaryFolder } from "./temporary-folder.js";

const INDEX = "model.safetensors.index.json";

/** A folder with these shards (one-element tensors) and this index. */
async function folderOf(shards: Record<string, readonly string[]>, index?: string | Record<string, unknown>): Promise<string> {
  const folder = await temporaryFolder();
  for (const [shard, names] of Object.entries(shards)) {
    await writeSafetensors(
      join(folder, shard),
      names.map((name, i) => ({ name, dtype: "F32", shape: [1], data: new Float32Array([i]) })),
    );
  }
  if (index !== undefined) await writeFile(join(folder, INDEX), typeof index === "string" ? index : JSON.stringify({ weight_map: index }));
  return folder;
}

async function refusal(folder: string): Promise<Diagnostic> {
  const error: unknown = await openCheckpoint(folder).catch((reason: unknown) => reason);
  if (!(error instanceof Diagnostic)) throw new Error(`expected a Diagnostic, found ${String(error)}`);
  return error;
}

const two = { "model-00001-of-00002.safetensors": ["a", "b"], "model-00002-of-00002.safetensors": ["c"] };
const [first, second] = Object.keys(two) as [string, string];

describe("a folder's weights", () => {
  it("may be one file, given as the folder or as itself", async () => {
    const folder = await folderOf({ "model.safetensors": ["a", "b"] });
    for (const path of [folder, join(folder, "model.safetensors")]) {
      const { files, tensors } = await openCheckpoint(path);
      expect([files.length, ...tensors.keys()]).toEqual([1, "a", "b"]);
    }
  });

  it("may be shards behind symbolic links, listed by an index with whatever total_size", async () => {
    const store = await folderOf(two);
    const folder = await folderOf({}, JSON.stringify({ metadata: { total_size: 1e99 }, weight_map: { c: second, a: first, b: first } }));
    for (const shard of [first, second]) await symlink(join(store, shard), join(folder, shard));
    const { files, tensors } = await openCheckpoint(folder);
    expect(files.map(({ path }) => path)).toEqual([join(folder, first), join(folder, second)]);
    expect([...tensors.values()].map(({ name, file }) => [name, file])).toEqual([
      ["a", 0],
      ["b", 0],
      ["c", 1],
    ]);
    expect(tensors.get("c")).toMatchObject({ dtype: "F32", shape: [1], bytes: 4, offset: files[1]?.dataStart });
  });

  it("may be one file that has an index, too", async () => {
    const folder = await folderOf({ "model.safetensors": ["a"] }, { a: "model.safetensors" });
    expect((await openCheckpoint(folder)).tensors.size).toBe(1);
  });

  it("does not show the padding that our own writer adds", async () => {
    const folder = await temporaryFolder();
    const tensors = ["a", "b"].map((name) => ({ name, dtype: "U8" as const, shape: [1], data: new Uint8Array(1) }));
    await writeSafetensors(join(folder, "model.safetensors"), tensors, { align: 256 });
    expect([...(await openCheckpoint(folder)).tensors.keys()]).toEqual(["a", "b"]);
  });
});

describe("a folder's weights that are refused", () => {
  it.each<[string, Parameters<typeof folderOf>, string, RegExp]>([
    ["no weights", [{}], "weights-missing", /found neither model\.safetensors nor/],
    ["weights under another name", [{ "pytorch_model.safetensors": ["a"] }], "weights-missing", /there is "pytorch_model.safetensors"/],
    [
      "a missing shard",
      [{ [first]: ["a", "b"] }, { a: first, b: first, c: second }],
      "weights-shard-missing",
      /no file "model-00002-of-00002/,
    ],
    [
      "a tensor of the index in no shard",
      [two, { a: first, b: first, c: second, d: second }],
      "weights-index-mismatch",
      /no such tensor in "model-00002/,
    ],
    [
      "a tensor of the index in another shard",
      [two, { a: first, b: second, c: second }],
      "weights-index-mismatch",
      /found it in "model-00001.*expected it in "model-00002/,
    ],
    ["a tensor that the index does not list", [two, { a: first, c: second }], "weights-index-mismatch", /that the index does not list/],
    [
      "a tensor in two shards",
      [
        { ...two, [second]: ["c", "a"] },
        { a: first, b: first, c: second },
      ],
      "weights-duplicate",
      /that .*00001.* also holds/,
    ],
    [
      "two sets of weights",
      [
        { ...two, "model.safetensors": ["a"] },
        { a: first, b: first, c: second },
      ],
      "weights-ambiguous",
      /expected one set/,
    ],
    ["an index that is no JSON", [two, "{"], "weights-bad-index", /not JSON/],
    ["an index that is an array", [two, "[]"], "weights-bad-index", /no object weight_map/],
    ["an index without a map", [two, "{}"], "weights-bad-index", /no object weight_map/],
    ["an empty index", [two, {}], "weights-bad-index", /an empty weight_map/],
    ["an index with a number for a file", [two, { a: 1 }], "weights-bad-index", /not text/],
    ["an index with a name twice", [two, `{"weight_map":{"a":"${first}","a":"${second}"}}`], "weights-bad-index", /the key "a" twice/],
  ])("for %s", async (_, args, code, message) => {
    const { code: found, summary } = await refusal(await folderOf(...args));
    expect({ code: found, summary }).toEqual({ code, summary: expect.stringMatching(message) });
  });

  it.each([
    "../x.safetensors",
    "/x.safetensors",
    "a/x.safetensors",
    "a\\x.safetensors",
    "..",
    ".x.safetensors",
    "c:x.safetensors",
    "x\u0000.safetensors",
    "x.bin",
    "",
  ])("for the shard name %j", async (name) => {
    const folder = await folderOf({}, { a: name });
    expect(await refusal(folder)).toMatchObject({ code: "weights-shard-name", place: expect.stringContaining('"a"') });
  });

  it("for a folder that is not there, a shard that is a folder, and a damaged shard", async () => {
    const folder = await folderOf({ [first]: ["a", "b"] }, { a: first, b: first, c: second });
    expect(await refusal(join(folder, "none"))).toMatchObject({ code: "file-missing" });
    await mkdir(join(folder, second));
    expect(await refusal(folder)).toMatchObject({ code: "file-not-regular", place: join(folder, second) });
  });
});

describe("the goldens", () => {
  const goldens = fileURLToPath(new URL("../goldens/", import.meta.url));
  it.each(["dense", "dense-bias-untied", "moe", "moe-no-shared-untied"])("%s open, and their tensors read", async (name) => {
    const { tensors } = await openCheckpoint(join(goldens, name));
    expect(tensors.get("model.embed_tokens.weight")).toMatchObject({ dtype: "BF16" });
    const ids = await readIntegers(join(goldens, name, "golden.safetensors"), "input_ids");
    const logits = await readFloats(join(goldens, name, "golden.safetensors"), "logits");
    expect(logits.shape[0]).toBe(ids.shape[0]);
    expect(logits.data.every(Number.isFinite)).toBe(true);
  });
});
