/** The C++ tokenizer and what stands beside it (stop strings, JSON, SHA-256): compiles the native tests, and runs them case by case. */

import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildNative, root, sanitizers } from "./build-native.js";

const source = (name: string): string => `runtime/src/${name}.cpp`;
const tokenizerSources = ["bpe", "detokenizer", "json", "piece_table", "prefix_matcher", "sentencepiece", "text_config", "tokenizer"].map(
  source,
);
const vectors = join(root, "test/goldens/tokenizer.json");

/** Runs a native test and shows what it printed when it fails. */
async function run(binary: string, ...args: string[]): Promise<string> {
  const result = await execa(binary, args, { reject: false, all: true, timeout: 120_000 });
  expect(result.exitCode, result.all).toBe(0);
  return result.stdout;
}

interface Model {
  readonly name: string;
  readonly file: string;
  readonly key: string;
  readonly templateTokens: number;
  textJson(): Promise<unknown>;
}

const mini: Model = {
  name: "ernie-mini",
  file: join(root, "examples/models/ernie-mini-moe/tokenizer.model"),
  key: "ernie-mini",
  templateTokens: 7,
  textJson: async () => ({ format: 1, vocab_size: 8192, stop_ids: [2, 4] }),
};

const realFolder = join(root, "../shared/models/ernie-4.5-0.3b");
const real: Model = {
  name: "ernie-4.5-0.3b",
  file: join(realFolder, "tokenizer.model"),
  key: "ernie-4.5-0.3b",
  // 1009 added, 26 that the file calls normal, <unk> <s> </s>
  templateTokens: 1038,
  textJson: async () => {
    const added = JSON.parse(await readFile(join(realFolder, "added_tokens.json"), "utf8")) as Record<string, number>;
    return {
      format: 1,
      vocab_size: 103424,
      added: Object.entries(added).map(([content, id]) => ({ id, content, special: true })),
      specials: Array.from({ length: 26 }, (_, i) => 100269 + i),
      stop_ids: [2, 100272],
    };
  },
};

describe("native text parts", () => {
  it("SHA-256", async () => {
    await run(await buildNative({ name: "sha256-test", sources: ["test/native/sha256_test.cpp", source("sha256")] }));
  });
  it("JSON", async () => {
    await run(await buildNative({ name: "json-test", sources: ["test/native/json_test.cpp", source("json")] }));
  });
  it("detokeniser and stop strings", async () => {
    await run(
      await buildNative({ name: "stream-test", sources: ["test/native/stream_test.cpp", source("stop_strings"), ...tokenizerSources] }),
    );
  });
});

describe("tokenizer", () => {
  let binary = "";
  let folder = "";
  beforeAll(async () => {
    binary = await buildNative({ name: "tokenizer-test", sources: ["test/native/tokenizer_test.cpp", ...tokenizerSources] });
    folder = await mkdtemp(join(tmpdir(), "ernie-tokenizer-"));
    for (const model of [mini, real].filter((each) => existsSync(each.file))) {
      await writeFile(join(folder, `${model.name}.json`), JSON.stringify(await model.textJson()));
    }
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it("models made in the test: merges, segments, threads, bad files", () => run(binary, "synthetic"));

  for (const model of [mini, real]) {
    const missing = !existsSync(model.file);
    if (missing) console.warn(`skipped: no tokenizer of ${model.name} at ${model.file}, so its vectors, specials and speed are not tested`);

    describe.skipIf(missing)(model.name, () => {
      const textJson = (): string => join(folder, `${model.name}.json`);

      it("equals every golden vector, encoded and decoded", async () => {
        expect(await run(binary, "vectors", model.file, textJson(), vectors, model.key)).toBe(`50 vectors of ${model.key}`);
      });
      it("never turns user text into a special", async () => {
        expect(await run(binary, "specials", model.file, textJson())).toBe(`${model.templateTokens} template tokens`);
      });
      it("refuses or survives a damaged file", () => run(binary, "corrupt", model.file));
      it.skipIf(sanitizers !== "")("keeps to its time", async () => {
        const text = join(folder, "mixed.txt");
        await writeFile(text, await mixedText(1_500_000));
        await run(binary, "speed", model.file, textJson(), text);
      });
    });
  }
});

/** Prose, code, Chinese and Russian from the vectors and this repository's sources; no two paragraphs alike, so that nothing is won by repetition alone. */
async function mixedText(bytes: number): Promise<string> {
  const golden = JSON.parse(await readFile(vectors, "utf8")) as Record<string, { text: string }[]>;
  const words = Object.values(golden).flatMap((list) => list.map((each) => each.text));
  const code = await readFile(join(root, "test/native/tokenizer_test.cpp"), "utf8");
  const lines = code.split("\n");
  let text = "";
  let size = 0;
  for (let i = 0; size < bytes; i++) {
    const line = `${words[(i * 7) % words.length]} ${lines[(i * 13) % lines.length]} ${(i * 2654435761) % 4294967296}\n`;
    text += line;
    size += Buffer.byteLength(line);
  }
  // U+2581 and U+0000 do not survive a round trip: the first reads as a space.
  return text.replaceAll("\u2581", " ");
}

describe("fuzz corpora under the address and undefined-behaviour sanitizers", () => {
  const flags = sanitizers ? [] : ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
  const harness = (name: string, sources: string[]) =>
    buildNative({ name: `${name}-replay`, sources: [`test/fuzz/${name}_fuzz.cpp`, "test/fuzz/replay.cpp", ...sources], flags });

  it("tokenizer", async () => {
    await run(await harness("tokenizer", tokenizerSources), join(root, "test/fuzz/corpus/tokenizer"));
  });
  it("json", async () => {
    await run(await harness("json", [source("json"), source("text_config")]), join(root, "test/fuzz/corpus/json"));
  });
});
