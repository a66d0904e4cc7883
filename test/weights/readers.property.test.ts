/**
 * The readers against anything: whatever a file holds, they return or throw a Diagnostic. What the writer writes comes back as it was.
 * FUZZ_TIMES=100 runs each property that many times longer.
 */

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Diagnostic } from "../../src/diagnostics.js";
import { openCheckpoint } from "../../src/weights/checkpoint.js";
import { readTensorBytes } from "../../src/weights/read-tensor.js";
import { parseSafetensorsHeader, readSafetensorsHeader, type SafetensorsFile } from "../../src/weights/safetensors.js";
import { writeSafetensors } from "../../src/weights/safetensors-write.js";
import { JsonError, parseStrictJson, type StrictJson } from "../../src/weights/strict-json.js";
import { TENSOR_DTYPES, type TensorDType } from "../../src/weights/tensor-type.js";
import { temporaryFolder } from "./temporary-folder.js";

const times = Number(process.env.FUZZ_TIMES ?? 1);

const name = fc
  .oneof(fc.string({ unit: "binary" }), fc.constantFrom("__proto__", "constructor", "", "a", "__pad", "\u2028"))
  .filter((text) => text !== "__metadata__");
const dtype = fc.constantFrom(...(Object.keys(TENSOR_DTYPES) as TensorDType[]));
const tensors = fc
  .uniqueArray(fc.record({ name, dtype, shape: fc.array(fc.nat(4), { maxLength: 4 }) }), {
    selector: (tensor) => tensor.name,
    maxLength: 6,
  })
  .filter((list) => !list.some((tensor) => /^__pad\.\d+$/.test(tensor.name)));

/** Calls the reader; true if it took the input. Anything thrown but a Diagnostic is a failure of the property. */
function taken(read: () => unknown): boolean {
  try {
    read();
    return true;
  } catch (error) {
    if (error instanceof Diagnostic && error.kind === "input") return false;
    throw error;
  }
}

function checkInvariants({ bytes, dataStart, tensors: entries }: SafetensorsFile): void {
  let end = dataStart;
  for (const entry of entries.values()) {
    expect(entry.offset).toBe(end);
    expect(entry.bytes).toBe(entry.shape.reduce((product, dim) => product * dim, TENSOR_DTYPES[entry.dtype]));
    end += entry.bytes;
  }
  expect(end).toBe(bytes);
}

describe("write, then read", () => {
  it("gives the same tensors, bytes and metadata, in either order and alignment", async () => {
    const path = join(await temporaryFolder(), "x.safetensors");
    const options = fc.record({
      order: fc.constantFrom("sorted" as const, "given" as const),
      align: fc.constantFrom(8, 64, 256),
      metadata: fc.dictionary(fc.string({ unit: "binary" }), fc.string({ unit: "binary" }), { maxKeys: 3 }),
    });
    await fc.assert(
      fc.asyncProperty(tensors, options, async (specs, settings) => {
        const written = specs.map((spec, i) => {
          const elements = spec.shape.reduce((product, dim) => product * dim, 1);
          return { ...spec, data: new Uint8Array(elements * TENSOR_DTYPES[spec.dtype]).map((_, j) => i * 31 + j) };
        });
        await writeSafetensors(path, written, settings);
        const file = await readSafetensorsHeader(path);
        checkInvariants(file);
        expect(new Map(file.metadata)).toEqual(new Map(Object.entries(settings.metadata)));
        for (const tensor of written) {
          const entry = file.tensors.get(tensor.name);
          if (!entry) throw new Error("a tensor is missing");
          expect([entry.dtype, entry.shape]).toEqual([tensor.dtype, tensor.shape]);
          if (settings.align > 8) expect(entry.offset % settings.align).toBe(0);
          expect(await readTensorBytes(path, entry)).toEqual(tensor.data);
        }
      }),
      { numRuns: 60 * times },
    );
  });
});

describe("a header that was tampered with", () => {
  /** Text of a header whose fields are sometimes what they should be. */
  const wild = fc.oneof(
    fc.integer().map(String),
    fc.double().map(String),
    fc.constantFrom(
      "-1",
      "0",
      "1",
      "2",
      "1e400",
      "9007199254740992",
      "18446744073709551616",
      "null",
      "true",
      '"F32"',
      '"BF16"',
      '"x"',
      "[]",
      "{}",
      "[[]]",
      "[0,4]",
      "[1]",
      "[4,4]",
    ),
  );
  const field = (key: string, sane: fc.Arbitrary<string>) =>
    fc.oneof(
      { weight: 5, arbitrary: sane.map((text) => `"${key}":${text}`) },
      wild.map((text) => `"${key}":${text}`),
      fc.constant(""),
    );
  const list = fc.array(fc.nat(5), { maxLength: 3 }).map((items) => JSON.stringify(items));
  const entry = fc
    .tuple(
      field(
        "dtype",
        dtype.map((text) => JSON.stringify(text)),
      ),
      field("shape", list),
      field(
        "data_offsets",
        fc.tuple(fc.nat(8), fc.nat(16)).map((pair) => JSON.stringify(pair)),
      ),
    )
    .map((fields) => `{${fields.filter(Boolean).join(",")}}`);
  const header = fc
    .array(fc.tuple(fc.oneof(name, fc.constantFrom("a", "b", "__metadata__")), fc.oneof({ weight: 5, arbitrary: entry }, wild)), {
      maxLength: 4,
    })
    .map((pairs) => `{${pairs.map(([key, value]) => `${JSON.stringify(key)}:${value}`).join(",")}}`);

  it("of wild fields is taken or refused with a Diagnostic", () => {
    let refused = 0;
    fc.assert(
      fc.property(header, fc.nat(24), (text, dataBytes) => {
        const bytes = new TextEncoder().encode(text);
        if (!taken(() => checkInvariants(parseSafetensorsHeader(bytes, 8 + bytes.length + dataBytes, "x")))) refused++;
      }),
      { numRuns: 3000 * times },
    );
    expect(refused).toBeGreaterThan(1000);
  });

  it("of flipped, cut and inserted bytes is, too", async () => {
    const path = join(await temporaryFolder(), "x.safetensors");
    const seeds = [
      { name: "a", dtype: "F32" as const, shape: [2, 3], data: new Uint8Array(24) },
      { name: "語", dtype: "BF16" as const, shape: [], data: new Uint8Array(2) },
    ];
    await writeSafetensors(path, seeds, { metadata: { format: "pt" } });
    const whole = await readFile(path);
    const header = whole.subarray(8, whole.length - 26);
    const edit = fc.record({ at: fc.nat(header.length), remove: fc.nat(6), insert: fc.uint8Array({ maxLength: 3 }) });
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 4 }), fc.nat(40), (edits, dataBytes) => {
        let bytes = Buffer.from(header);
        for (const { at, remove, insert } of edits) bytes = Buffer.concat([bytes.subarray(0, at), insert, bytes.subarray(at + remove)]);
        taken(() => checkInvariants(parseSafetensorsHeader(bytes, 8 + bytes.length + dataBytes, "x")));
      }),
      { numRuns: 3000 * times },
    );
    await fc.assert(
      fc.asyncProperty(edit, fc.nat(whole.length), async ({ at, remove, insert }, length) => {
        const bytes = Buffer.concat([whole.subarray(0, at), insert, whole.subarray(at + remove)]).subarray(0, length);
        await writeFile(path, bytes);
        const error: unknown = await readSafetensorsHeader(path).catch((reason: unknown) => reason);
        if (error instanceof Error && !(error instanceof Diagnostic)) throw error;
      }),
      { numRuns: 200 * times },
    );
  });
});

describe("an index of any content", () => {
  it("is refused with a Diagnostic, since none of its shards is there", async () => {
    const folder = await temporaryFolder();
    const shard = fc.oneof(fc.string(), fc.constantFrom("a.safetensors", "../a.safetensors", "model.safetensors.index.json"));
    const map = fc.dictionary(name, fc.oneof(shard, fc.jsonValue()), { noNullPrototype: false });
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          fc.json(),
          map.map((weight_map) => JSON.stringify({ weight_map })),
          fc.string(),
        ),
        async (text) => {
          await writeFile(join(folder, "model.safetensors.index.json"), text);
          await expect(openCheckpoint(folder)).rejects.toBeInstanceOf(Diagnostic);
        },
      ),
      { numRuns: 200 * times },
    );
  });
});

describe("the strict JSON reader", () => {
  const plain = (value: StrictJson): unknown => {
    if (value instanceof Map) return Object.fromEntries([...value].map(([key, inner]) => [key, plain(inner)]));
    if (Array.isArray(value)) return value.map(plain);
    return typeof value === "bigint" ? Number(value) : value;
  };

  it("agrees with JSON.parse on JSON", () => {
    fc.assert(
      fc.property(fc.json({ depthSize: "medium" }), (text) => {
        expect(JSON.stringify(plain(parseStrictJson(text)))).toEqual(JSON.stringify(JSON.parse(text)));
      }),
    );
  });

  it("refuses what JSON.parse refuses, and more only where it says so", () => {
    const token = fc.constantFrom(
      "{",
      "}",
      "[",
      "]",
      ",",
      ":",
      '"',
      '"a"',
      '"b"',
      "\\",
      "\\u00",
      "1",
      "-",
      "0",
      ".5",
      "e9",
      "true",
      "nul",
      " ",
      "\n",
      "\u0000",
      "語",
    );
    fc.assert(
      fc.property(
        fc.array(token, { maxLength: 9 }).map((tokens) => tokens.join("")),
        (text) => {
          let parses = true;
          try {
            JSON.parse(text);
          } catch {
            parses = false;
          }
          try {
            parseStrictJson(text);
            expect(parses).toBe(true);
          } catch (error) {
            if (!(error instanceof JsonError)) throw error;
            if (parses) expect(error.message).toMatch(/same key twice|surrogate/);
          }
        },
      ),
      { numRuns: 5000 * times },
    );
  });

  it.each([
    ["a key twice", '{"a":1,"a":1}', /same key twice/],
    ["a key twice in two spellings", '{"__proto__":1,"\\u005f_proto__":2}', /same key twice/],
    ["half a pair", '"\\udc00\\ud800"', /half a surrogate pair/],
    ["a comma too many", "[1,]", /expected a JSON value/],
    ["a leading zero", "01", /text after the end/],
    ["a plus", "+1", /expected a JSON value/],
    ["nothing", "", /ends early/],
    ["a byte order mark", "\ufeff{}", /expected a JSON value/],
    ["depth", `${"[".repeat(65)}1${"]".repeat(65)}`, /nested deeper than 64/],
    ["endless values", `[${"0,".repeat(4_000_000)}0]`, /more than 4000000 values/],
  ])("refuses %s", (_, text, message) => {
    expect(() => parseStrictJson(text)).toThrow(message);
  });

  it("keeps integers exact", () => {
    expect(parseStrictJson("[9007199254740993, -0, 1e2, 1234567890123456789012]")).toEqual([
      9007199254740993n,
      0n,
      100,
      1.2345678901234568e21,
    ]);
  });
});
