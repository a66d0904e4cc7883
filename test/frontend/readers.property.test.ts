/**
 * What the compiler reads of a folder that somebody else made, against anything: whatever the JSON says, it is taken or refused with a Diagnostic.
 * config.json, tokenizer.model and the weights have theirs in config.test.ts, generation.test.ts and test/weights. FUZZ_TIMES=100 runs longer.
 */

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { checkManifest } from "../../src/cli/manifest.js";
import { Diagnostic } from "../../src/diagnostics.js";
import { readTextAssets } from "../../src/frontend/generation.js";
import { type Json, parseJsonObject } from "../../src/frontend/json.js";
import { resolveRequest } from "../../src/frontend/model-json.js";
import { config, path, readJson } from "./support.js";

const times = Number(process.env.FUZZ_TIMES ?? 1);
const MINI = path("examples/models/ernie-mini-moe");

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ernie-fuzz-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** True if the reader took it; anything thrown but a Diagnostic about the input fails the property. */
async function taken(read: () => unknown): Promise<boolean> {
  try {
    await read();
    return true;
  } catch (error) {
    if (error instanceof Diagnostic && error.kind !== "bug") return false;
    throw error;
  }
}

/** Values that a reader may trip over, and any JSON. */
const wild = fc.oneof(
  fc.jsonValue({ maxDepth: 3 }),
  fc.constantFrom<Json>(
    null,
    "",
    -1,
    0,
    0.5,
    1e300,
    2 ** 53,
    [],
    {},
    [[]],
    [null],
    "__proto__",
    "*/ ${x} \u0000\u202e\n",
    "a".repeat(5000),
    [1, 2, 3],
    { content: "x" },
    { content: 5 },
  ),
);
/** An object in which some of these keys have wild values, and sometimes there are others. */
const objectOf = (...keys: readonly string[]) =>
  fc.dictionary(fc.oneof({ weight: 8, arbitrary: fc.constantFrom(...keys) }, fc.string(), fc.constant("__proto__")), wild, { maxKeys: 4 });

describe("text that should be JSON", () => {
  it("is an object or refused", async () => {
    const valid = fc.json({ maxDepth: 4 });
    const cut = fc.tuple(valid, fc.nat(40)).map(([text, n]) => text.slice(0, n));
    const spliced = fc
      .tuple(valid, fc.nat(40), fc.string({ unit: "binary", maxLength: 3 }))
      .map(([text, n, more]) => text.slice(0, n) + more + text.slice(n));
    await fc.assert(
      fc.asyncProperty(fc.oneof(valid, cut, spliced, fc.string({ unit: "binary" })), async (text) => {
        await taken(() => expect(Object.getPrototypeOf(parseJsonObject(text, "x"))).toBe(null));
      }),
      { numRuns: 1000 * times },
    );
  });
});

describe("a compile request", () => {
  const request = objectOf(
    "model",
    "target",
    "arch",
    "activations",
    "quantization",
    "deterministic",
    "limits",
    "weights",
    "adapters",
    "tuning",
    "threads",
    "out",
    "$schema",
  );
  const limits = objectOf("maxContext", "maxBatch", "kvTokens", "prefillChunk", "blockSize");

  it("of wild values is resolved or refused, in the file and as flags", async () => {
    let refused = 0;
    const file = join(folder, "model.json");
    await fc.assert(
      fc.asyncProperty(request, fc.option(limits), fc.boolean(), async (values, some, named) => {
        const written = {
          ...(named ? { model: "ernie-4.5-0.3b", weights: "synthetic:1" } : {}),
          ...values,
          ...(some ? { limits: some } : {}),
        };
        writeFileSync(file, JSON.stringify(written));
        if (!(await taken(() => resolveRequest(file, {}, folder)))) refused++;
        const { model: _, ...flags } = { ...values, ...some };
        await taken(() => resolveRequest("ernie-4.5-0.3b", { weights: "synthetic:1", ...flags } as object, folder));
      }),
      { numRuns: 300 * times },
    );
    expect(refused).toBeGreaterThan(100);
  });
});

describe("the files that say how a model speaks", () => {
  const FILES = {
    "generation_config.json": objectOf(
      "do_sample",
      "temperature",
      "top_p",
      "top_k",
      "min_p",
      "repetition_penalty",
      "frequency_penalty",
      "eos_token_id",
    ),
    // Texts for a chat template would be rendered, in a process each: chat.test.ts has them.
    "tokenizer_config.json": objectOf("bos_token", "eos_token", "cls_token", "additional_special_tokens", "added_tokens_decoder"),
    "special_tokens_map.json": objectOf("bos_token", "eos_token", "unk_token", "additional_special_tokens"),
    "added_tokens.json": objectOf("<s>", "<a>", "<|im_end|>", "", "<mask:1>"),
  } as const;
  const decoder = fc.dictionary(
    fc.oneof(fc.nat(9000).map(String), fc.string()),
    fc.oneof(wild, fc.record({ content: fc.string(), special: fc.boolean() })),
    {
      maxKeys: 3,
    },
  );

  it("are read or refused, whatever they say", async () => {
    const model = config("moe", { vocab_size: 8192 });
    cpSync(join(MINI, "tokenizer.model"), join(folder, "tokenizer.model"));
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.record(FILES, { requiredKeys: [] }),
        fc.option(decoder),
        fc.option(fc.constantFrom(5, [], {}, [{ name: "default" }])),
        async (files, tokens, template) => {
          for (const name of Object.keys(FILES) as (keyof typeof FILES)[]) rmSync(join(folder, name), { force: true });
          for (const [name, value] of Object.entries(files)) {
            const more =
              name === "tokenizer_config.json"
                ? { ...(tokens && { added_tokens_decoder: tokens }), ...(template !== null && { chat_template: template }) }
                : {};
            writeFileSync(join(folder, name), JSON.stringify({ ...value, ...more }));
          }
          if (!(await taken(() => readTextAssets(folder, model)))) refused++;
        },
      ),
      { numRuns: 150 * times },
    );
    expect(refused).toBeGreaterThan(20);
  });
});

describe("a package's manifest", () => {
  const whole = {
    format: 1,
    build: "build-0123456789abcdef",
    build_id: "0123456789abcdef0123456789abcdef",
    target: { target: "cpu", arch: "x86-64-v3", activations: "bf16" },
    model: { architecture: "Ernie4_5ForCausalLM", parameters: 1, layers: 1, vocabSize: 1 },
    limits: { maxContext: 1 },
    memory: { weights: 1, arena: 1, kvBytesPerToken: 1, byContext: { 1024: 1 } },
    programs: [{ name: "decode_s1", kind: "decode", launches: 1, arenaBytes: 1 }],
    kernels: [{ name: "a", op: "linear", kernel: "b", launches: { decode_s1: 1 } }],
    files: { "lib/a.so": { sha256: "0".repeat(64), bytes: 1 } },
    root: { "index.js": { sha256: "0".repeat(64), bytes: 1 } },
  };

  it("is taken when it is whole", () => {
    expect(checkManifest(whole, "manifest.json")).toBe(whole);
    expect(readJson("package.json").name).toBe("ernie-compile");
  });

  it("of wild values is taken or refused", async () => {
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          wild,
          objectOf(...Object.keys(whole)).map((values) => ({ ...whole, ...values })),
        ),
        async (value) => {
          if (!(await taken(() => checkManifest(value as Json, "manifest.json")))) refused++;
        },
      ),
      { numRuns: 1000 * times },
    );
    expect(refused).toBeGreaterThan(500);
  });

  it.each(["../x", "/x", "a/../x", "./x", "a//b", "a/", "", "..", ".", "a\\b", "a b", "a\u0000", "ä"])("does not list %j", (name) => {
    const files = { [name]: { sha256: "0".repeat(64), bytes: 1 } };
    expect(() => checkManifest({ ...whole, files }, "manifest.json")).toThrow(expect.objectContaining({ code: "package-changed" }));
  });

  it.each([
    "",
    "build",
    "build-",
    "../build-0123456789abcdef",
    "build-0123456789abcdef/..",
    "build-0123456789abcdef\n",
    "build-0123456789ABCDEF",
  ])("does not name the build %j", (build) => {
    expect(() => checkManifest({ ...whole, build }, "manifest.json")).toThrow(expect.objectContaining({ code: "package-changed" }));
  });
});

it("the mini models' own files are taken", async () => {
  for (const name of ["generation_config.json", "tokenizer_config.json"])
    expect(await taken(() => parseJsonObject(readFileSync(join(MINI, name), "utf8"), name))).toBe(true);
});
