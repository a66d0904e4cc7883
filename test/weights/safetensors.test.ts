import { execFileSync } from "node:child_process";
import { mkdir, readdir, readFile, symlink, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Diagnostic } from "../../src/diagnostics.js";
import { readFloats, readIntegers, readTensor, readTensorBytes } from "../../src/weights/read-tensor.js";
import { readSafetensorsHeader } from "../../src/weights/safetensors.js";
import { isPadding, layOutSafetensors, type TensorToWrite, writeSafetensors } from "../../src/weights/safetensors-write.js";
import { fileOf } from "./safetensors-bytes.js";
import { temporaryFolder } from "./temporary-folder.js";

const entry = (dtype: string, shape: string, begin: number | string, end: number | string) =>
  `{"dtype":"${dtype}","shape":${shape},"data_offsets":[${begin},${end}]}`;

async function refusal(bytes: Uint8Array): Promise<Diagnostic> {
  const path = join(await temporaryFolder(), "bad.safetensors");
  await writeFile(path, bytes);
  const error: unknown = await readSafetensorsHeader(path).catch((reason: unknown) => reason);
  if (!(error instanceof Diagnostic)) throw new Error(`expected a Diagnostic, found ${String(error)}`);
  expect(error.place).toContain(path);
  return error;
}

describe("a safetensors file that is refused", () => {
  const one = `{"a":${entry("F32", "[2]", 0, 8)}}`;
  it.each<[string, Buffer, string, RegExp]>([
    ["empty", Buffer.alloc(0), "safetensors-truncated", /found 0 bytes, expected at least the 8/],
    ["cut inside the length", Buffer.alloc(7), "safetensors-truncated", /found 7 bytes/],
    ["cut inside the header", fileOf(one, 0, 1000n), "safetensors-truncated", /a header of 1000 bytes in a file of/],
    ["cut inside the data", fileOf(one, 7), "safetensors-out-of-file", /the end at byte 8 of the data, expected at most 7/],
    [
      "with a header just over the limit",
      fileOf(one, 8, 100_000_001n),
      "safetensors-header-too-large",
      /100000001 bytes, expected at most 100000000/,
    ],
    ["with the largest length", fileOf(one, 8, 2n ** 64n - 1n), "safetensors-header-too-large", /18446744073709551615/],
    ["with a length that is too short", fileOf(one, 8, 20n), "safetensors-bad-header", /not JSON: .* at character/],
    ["with a length that takes in data", fileOf(one, 8, BigInt(one.length + 4)), "safetensors-bad-header", /text after the end/],
    ["with no header", fileOf("", 8), "safetensors-bad-header", /does not start with '\{'/],
    ["of another kind", Buffer.from("PK\u0003\u0004 not at all a safetensors file"), "safetensors-header-too-large", /a header of/],
    ["whose header is an array", fileOf("[]", 0), "safetensors-bad-header", /does not start with '\{'/],
    ["whose header is not UTF-8", fileOf(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d]), 0), "safetensors-bad-header", /not UTF-8/],
    ["whose header nests without end", fileOf(`{"a":${"[".repeat(100_000)}`, 0), "safetensors-bad-header", /nested deeper/],
    ["whose name is half a surrogate pair", fileOf(`{"\\ud800":${entry("U8", "[0]", 0, 0)}}`, 0), "safetensors-bad-header", /surrogate/],
    ["with an entry that is a number", fileOf('{"a":1}', 0), "safetensors-bad-header", /an entry that is not an object/],
    ["with an entry of unknown keys", fileOf('{"a":{"dtype":"U8","strides":[1]}}', 0), "safetensors-bad-header", /the key "strides"/],
    ["without dtype", fileOf('{"a":{"shape":[0],"data_offsets":[0,0]}}', 0), "safetensors-bad-header", /no dtype/],
    [
      "of unknown dtype",
      fileOf(`{"a":${entry("Q7", "[1]", 0, 1)}}`, 1),
      "safetensors-unknown-dtype",
      /dtype "Q7", expected one of BOOL, U8/,
    ],
    ["with dtype toString", fileOf(`{"a":${entry("toString", "[1]", 0, 1)}}`, 1), "safetensors-unknown-dtype", /"toString"/],
    ["without shape", fileOf('{"a":{"dtype":"U8","data_offsets":[0,0]}}', 0), "safetensors-bad-shape", /no shape/],
    ["with a negative size", fileOf(`{"a":${entry("U8", "[-1]", 0, 1)}}`, 1), "safetensors-bad-shape", /found a size -1/],
    ["with half a size", fileOf(`{"a":${entry("U8", "[0.5]", 0, 1)}}`, 1), "safetensors-bad-shape", /found a size 0.5/],
    ["with a size in quotes", fileOf(`{"a":${entry("U8", '["1"]', 0, 1)}}`, 1), "safetensors-bad-shape", /found a size "1"/],
    ["with a size written 1e3", fileOf(`{"a":${entry("U8", "[1e3]", 0, 1)}}`, 1), "safetensors-bad-shape", /found a size 1000/],
    ["with a size over 2^53", fileOf(`{"a":${entry("U8", "[9007199254740993]", 0, 1)}}`, 1), "safetensors-bad-shape", /9007199254740993/],
    ["with a size of 90 digits", fileOf(`{"a":${entry("U8", `[${"9".repeat(90)}]`, 0, 1)}}`, 1), "safetensors-bad-shape", /1e\+90/],
    ["with 33 axes", fileOf(`{"a":${entry("U8", `[${Array(33).fill(1)}]`, 0, 1)}}`, 1), "safetensors-bad-shape", /33 axes/],
    [
      "whose shape is 2^64 + 1 bytes in all",
      // 274177 x 67280421310721 = 2^64 + 1: in 64 bits that would be the one byte that is there.
      fileOf(`{"a":${entry("U8", "[274177, 67280421310721]", 0, 1)}}`, 1),
      "safetensors-size-mismatch",
      /found 1 bytes, expected 18446744073709551617/,
    ],
    [
      "whose bytes do not fit the shape",
      fileOf(`{"a":${entry("BF16", "[3]", 0, 8)}}`, 8),
      "safetensors-size-mismatch",
      /found 8 bytes, expected 6 for BF16 \[3\]/,
    ],
    ["without offsets", fileOf('{"a":{"dtype":"U8","shape":[0]}}', 0), "safetensors-bad-offsets", /data_offsets nothing/],
    ["with one offset", fileOf('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0]}}', 0), "safetensors-bad-offsets", /\[0\]/],
    ["with negative offsets", fileOf(`{"a":${entry("U8", "[1]", -1, 0)}}`, 1), "safetensors-bad-offsets", /\[-1, 0\]/],
    ["with offsets that go back", fileOf(`{"a":${entry("U8", "[1]", 1, 0)}}`, 1), "safetensors-bad-offsets", /\[1, 0\]/],
    ["with fractional offsets", fileOf(`{"a":${entry("U8", "[1]", "0.0", 1)}}`, 1), "safetensors-bad-offsets", /\[0, 1\]/],
    [
      "with an offset past the file",
      fileOf(`{"a":${entry("U8", "[1]", "9999999999999999999", "10000000000000000000")}}`, 1),
      "safetensors-out-of-file",
      /10000000000000000000/,
    ],
    [
      "whose tensors overlap",
      fileOf(`{"a":${entry("U8", "[4]", 0, 4)},"b":${entry("U8", "[4]", 3, 7)}}`, 7),
      "safetensors-overlap",
      /bytes that "a" also claims/,
    ],
    [
      "whose tensors share bytes",
      fileOf(`{"a":${entry("U8", "[4]", 0, 4)},"b":${entry("U8", "[4]", 0, 4)}}`, 4),
      "safetensors-overlap",
      /also claims/,
    ],
    [
      "with a hole",
      fileOf(`{"a":${entry("U8", "[4]", 0, 4)},"b":${entry("U8", "[4]", 5, 9)}}`, 9),
      "safetensors-hole",
      /a hole of 1 bytes after "a"/,
    ],
    ["with a hole at the start", fileOf(`{"a":${entry("U8", "[4]", 1, 5)}}`, 5), "safetensors-hole", /a hole of 1 bytes after the header/],
    ["with bytes after the last tensor", fileOf(one, 9), "safetensors-hole", /1 bytes after the last tensor/],
    [
      "that names a tensor twice",
      fileOf(`{"a":${entry("U8", "[1]", 0, 1)},"\\u0061":${entry("U8", "[1]", 1, 2)}}`, 2),
      "safetensors-duplicate",
      /found "a" twice/,
    ],
    ["that names dtype twice", fileOf('{"a":{"dtype":"U8","dtype":"I8"}}', 0), "safetensors-duplicate", /found "dtype" twice/],
    ["whose metadata is a list", fileOf('{"__metadata__":[]}', 0), "safetensors-bad-header", /__metadata__ that is not an object/],
    ["whose metadata holds a number", fileOf('{"__metadata__":{"a":1}}', 0), "safetensors-bad-header", /key "a" that is not text/],
  ])("is %s", async (_, bytes, code, message) => {
    const { code: found, summary } = await refusal(bytes);
    expect({ code: found, summary }).toEqual({ code, summary: expect.stringMatching(message) });
  });

  it("shows control characters of a name escaped", async () => {
    const { message } = await refusal(fileOf(`{"a\\u001b[31m\\n\\u0000":${entry("Q7", "[1]", 0, 1)}}`, 1));
    expect(message).toContain('"a\\u001b[31m\\n\\u0000"');
  });

  it("is missing, a folder, or something that is read while it shrinks", async () => {
    const folder = await temporaryFolder();
    await expect(readSafetensorsHeader(join(folder, "none"))).rejects.toMatchObject({ code: "file-missing", kind: "input" });
    await expect(readSafetensorsHeader(folder)).rejects.toMatchObject({ code: "file-not-regular" });
    execFileSync("mkfifo", [join(folder, "pipe")]);
    await expect(readSafetensorsHeader(join(folder, "pipe"))).rejects.toMatchObject({ code: "file-not-regular" });
    const path = join(folder, "a.safetensors");
    await writeSafetensors(path, [{ name: "a", dtype: "U8", shape: [64], data: new Uint8Array(64) }]);
    const file = await readSafetensorsHeader(path);
    await truncate(path, file.bytes - 1);
    await expect(readTensor(file, "a")).rejects.toMatchObject({ code: "file-shrank" });
  });

  it("claims 100 MB of header that only 1 KB of file could hold, and nothing of it is read", async () => {
    const before = process.memoryUsage().arrayBuffers;
    await refusal(fileOf(" ".repeat(1000), 0, 100_000_000n));
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1 << 20);
  });

  it("is 2 MB of one bracket, digit or quote, and gets its answer in linear time", async () => {
    for (const text of ['{"a":[', '{"a":', '{"a":"', "{"].flatMap((start) =>
      ["[", "1", "a", '\\"', "0,", '"a":'].map((unit) => start + unit.repeat(2 ** 21 / unit.length)),
    )) {
      const start = performance.now();
      expect((await refusal(fileOf(text, 0))).code).toMatch(/^safetensors-(bad-header|duplicate)$/);
      expect(performance.now() - start).toBeLessThan(5000);
    }
  });
});

describe("a safetensors file that is taken", () => {
  it("may hold names of any text, and sizes of zero", async () => {
    const path = join(await temporaryFolder(), "odd.safetensors");
    const names = [
      "__proto__",
      "constructor",
      "toString",
      'quo"te',
      "new\nline",
      "\u0000",
      "*/ ${",
      "語",
      "\u{1f600}",
      "",
      "0",
      "__metadata",
    ];
    const tensors = names.map((name, i): TensorToWrite => ({ name, dtype: "U8", shape: [i % 3], data: new Uint8Array(i % 3).fill(i) }));
    await writeSafetensors(path, tensors, { order: "given", metadata: { "a\u0000": "\n" } });
    const file = await readSafetensorsHeader(path);
    expect(new Set(file.tensors.keys())).toEqual(new Set(names));
    expect([...file.metadata]).toEqual([["a\u0000", "\n"]]);
    for (const { name, data } of tensors) {
      const found = file.tensors.get(name);
      expect(found && (await readTensorBytes(path, found))).toEqual(data);
    }
  });

  it("may be a symbolic link, as in a hub cache", async () => {
    const folder = await temporaryFolder();
    await mkdir(join(folder, "blobs"));
    await writeSafetensors(join(folder, "blobs", "x"), [{ name: "a", dtype: "F32", shape: [1], data: new Float32Array([2]) }]);
    await symlink(join("blobs", "x"), join(folder, "model.safetensors"));
    expect((await readFloats(join(folder, "model.safetensors"), "a")).data).toEqual(new Float32Array([2]));
  });

  it("may have a header padded with spaces and tensors in any order of names", async () => {
    const path = join(await temporaryFolder(), "padded.safetensors");
    await writeFile(
      path,
      fileOf(`{"b":${entry("I32", "[]", 4, 8)},"z":${entry("U8", "[0, 7]", 4, 4)},"a":${entry("I32", "[1]", 0, 4)}}   `, 8),
    );
    const { tensors } = await readSafetensorsHeader(path);
    expect([...tensors.values()].map(({ name, shape }) => [name, shape])).toEqual([
      ["a", [1]],
      ["z", [0, 7]],
      ["b", []],
    ]);
  });

  it("gives every type as numbers", async () => {
    const path = join(await temporaryFolder(), "types.safetensors");
    const data = {
      F64: new Float64Array([0.1]),
      F32: new Float32Array([0.5]),
      F16: new Uint16Array([0x3c00]),
      BF16: new Uint16Array([0x3f80]),
      U16: new Uint16Array([0xbf80]),
      I64: new BigInt64Array([-5n]),
      I32: new Int32Array([-4]),
      U32: new Uint32Array([2 ** 32 - 1]),
      I16: new Int16Array([-3]),
      I8: new Int8Array([-2]),
      U8: new Uint8Array([255]),
      BOOL: new Uint8Array([1]),
    } as const;
    await writeSafetensors(
      path,
      Object.entries(data).map(([dtype, bytes]) => ({ name: dtype, dtype: dtype as keyof typeof data, shape: [1], data: bytes })),
    );
    const floats = { F64: Math.fround(0.1), F32: 0.5, F16: 1, BF16: 1, U16: -1 };
    const integers = { I64: -5n, I32: -4n, U32: 4294967295n, I16: -3n, I8: -2n, U8: 255n, BOOL: 1n };
    for (const [name, value] of Object.entries(floats)) expect((await readFloats(path, name)).data).toEqual(new Float32Array([value]));
    for (const [name, value] of Object.entries(integers)) expect((await readIntegers(path, name)).data).toEqual(new BigInt64Array([value]));
    await expect(readFloats(path, "I32")).rejects.toMatchObject({ code: "safetensors-wrong-dtype" });
    await expect(readIntegers(path, "F32")).rejects.toMatchObject({ code: "safetensors-wrong-dtype" });
    await expect(readTensor(path, "none")).rejects.toMatchObject({ code: "safetensors-no-tensor" });
  });
});

describe("writing", () => {
  const small = (name: string, dtype: "F32" | "U8", elements: number): TensorToWrite => ({
    name,
    dtype,
    shape: [elements],
    data: new Uint8Array(elements * (dtype === "F32" ? 4 : 1)).fill(name.charCodeAt(0)),
  });

  it("sorts by element size, then name, and starts the data at a multiple of 8", () => {
    const { entries, head } = layOutSafetensors([small("b", "U8", 3), small("z", "F32", 1), small("a", "U8", 1)]);
    expect(entries.map(({ name }) => name)).toEqual(["z", "a", "b"]);
    expect(head.length % 8).toBe(0);
  });

  it("aligns every tensor with named padding, which any reader of the format takes", async () => {
    const path = join(await temporaryFolder(), "aligned.safetensors");
    const tensors = [small("b", "U8", 3), small("z", "F32", 64), small("a", "U8", 1)];
    const { head, bytes } = await writeSafetensors(path, tensors, { order: "given", align: 256 });
    const file = await readSafetensorsHeader(path);
    expect([...file.tensors.keys()]).toEqual(["b", "__pad.1", "z", "a"]);
    expect([...file.tensors.values()].filter(({ name }) => !isPadding(name)).every(({ offset }) => offset % 256 === 0)).toBe(true);
    expect(file.bytes).toBe(bytes);
    expect((await readFile(path)).subarray(0, head.length)).toEqual(Buffer.from(head));
  });

  it("takes data in pieces", async () => {
    const path = join(await temporaryFolder(), "pieces.safetensors");
    async function* pieces() {
      yield new Uint8Array([1, 2]);
      yield new Uint8Array([]);
      yield new Uint8Array([3]);
    }
    await writeSafetensors(path, [{ name: "a", dtype: "U8", shape: [3], data: pieces() }]);
    expect((await readIntegers(path, "a")).data).toEqual(new BigInt64Array([1n, 2n, 3n]));
  });

  it("leaves the old file and nothing else when it fails", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "a.safetensors");
    await writeSafetensors(path, [small("a", "U8", 1)]);
    const before = await readFile(path);
    async function* broken() {
      yield new Uint8Array(1000);
      throw new Error("the source broke");
    }
    await expect(writeSafetensors(path, [{ name: "a", dtype: "U8", shape: [2000], data: broken() }])).rejects.toThrow("the source broke");
    await expect(writeSafetensors(path, [{ ...small("a", "U8", 2), shape: [3] }])).rejects.toMatchObject({ kind: "bug" });
    await expect(writeSafetensors(path, [{ ...small("a", "U8", 4), shape: [3] }])).rejects.toMatchObject({ kind: "bug" });
    expect(await readdir(folder)).toEqual(["a.safetensors"]);
    expect(await readFile(path)).toEqual(before);
  });

  it("says when the disk is full", async () => {
    const { fileError } = await import("../../src/weights/file.js");
    expect(fileError(Object.assign(new Error("ENOSPC"), { code: "ENOSPC", errno: -28 }), "x")).toMatchObject({
      code: "disk-full",
      kind: "environment",
    });
  });

  it.each([
    ["twice", ["a", "a"]],
    ["__metadata__", ["__metadata__"]],
    ["a padding name", ["__pad.3"]],
  ])("refuses a name that is %s", (_, names) => {
    expect(() => layOutSafetensors(names.map((name) => small(name, "U8", 1)))).toThrow(/taken or reserved/);
  });
});
