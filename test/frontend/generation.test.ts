import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Diagnostic } from "../../src/diagnostics.js";
import { readConfig } from "../../src/frontend/config.js";
import { readTextAssets } from "../../src/frontend/generation.js";
import { parsePieces } from "../../src/frontend/sentencepiece-pieces.js";
import { sharedPath } from "./shared-files.js";
import { config, path, refusal } from "./support.js";

const MINI = path("examples/models/ernie-mini-moe");
const TOKENIZER_FILES = ["config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"];

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ernie-text-"));
  for (const name of TOKENIZER_FILES) cpSync(join(MINI, name), join(folder, name));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function edit(name: string, changes: { readonly [key: string]: unknown }): void {
  writeFileSync(join(folder, name), JSON.stringify({ ...JSON.parse(readFileSync(join(folder, name), "utf8")), ...changes }));
}

async function assets() {
  return readTextAssets(folder, (await readConfig(join(folder, "config.json"))).config);
}

describe("text.json", () => {
  it("of a mini model", async () => {
    const { text, chat, tokenizerModel, named, warnings } = await assets();
    expect(text).toEqual({
      format: 1,
      vocab_size: 8192,
      added: [],
      specials: ["<unk>", "<s>", "</s>", "<|begin_of_sentence|>", "<|end_of_sentence|>", "<mask:1>"],
      stop_ids: [2, 4],
      generation: { do_sample: false, temperature: 0 },
    });
    expect(chat).toEqual({ format: 1, form: "ernie-text" });
    expect(tokenizerModel).toBe(join(folder, "tokenizer.model"));
    expect(named).toMatchObject({
      eos_token: { id: 2, content: "</s>" },
      cls_token: { id: 3, content: "<|begin_of_sentence|>" },
      unk_token: { id: 0 },
    });
    expect(warnings).toEqual([]);
  });

  it("of the real 0.3B", async () => {
    const real = sharedPath("models/ernie-4.5-0.3b");
    if (real === undefined) return console.warn("skipped: models/ernie-4.5-0.3b of the shared files is missing");
    const { text, chat, warnings } = await readTextAssets(real, (await readConfig(join(real, "config.json"))).config);
    expect(text.added).toHaveLength(1009);
    expect(text.added[0]).toEqual({ id: 100295, content: "<|IMAGE_PLACEHOLDER|>", special: true });
    // Named by no file, but control markers all the same.
    for (const marker of ["<mask:2>", "<|prefixoftext|>", "<|end_of_sentence|>"]) expect(text.specials).toContain(marker);
    expect(text.stop_ids).toEqual([2, 100272]);
    expect(text.generation).toEqual({
      do_sample: true,
      temperature: 0.8,
      top_p: 0.8,
      repetition_penalty: 1,
      frequency_penalty: 0,
      presence_penalty: 0,
    });
    expect([chat, warnings]).toEqual([{ format: 1, form: "ernie-text" }, []]);
  });

  it("of a folder without a tokenizer, and of no folder", async () => {
    const golden = path("test/goldens/dense");
    const { text, chat, tokenizerModel, warnings } = await readTextAssets(golden, config("dense"));
    expect([text.stop_ids, chat, tokenizerModel, warnings.map(({ code }) => code)]).toEqual([[2], null, null, ["tokenizer-missing"]]);
    expect(await readTextAssets(null, config("dense"))).toMatchObject({ text: { stop_ids: [2], generation: {} }, warnings: [] });
  });

  it("stop ids come from both files and from the tokens that end a turn", async () => {
    edit("generation_config.json", { eos_token_id: [7, 2] });
    expect((await assets()).text.stop_ids).toEqual([2, 4, 7]);
    writeFileSync(join(folder, "added_tokens.json"), JSON.stringify({ "<|im_end|>": 8191, "<|im_start|>": 8190 }));
    edit("config.json", { vocab_size: 8194 });
    expect((await refusal(assets)).code).toBe("tokenizer-added-token");
    writeFileSync(join(folder, "added_tokens.json"), JSON.stringify({ "<|im_end|>": 8193, "<|im_start|>": 8192 }));
    expect((await assets()).text.stop_ids).toEqual([2, 4, 7, 8193]);
  });

  it("added tokens are special where a file says so", async () => {
    edit("config.json", { vocab_size: 8200 });
    writeFileSync(join(folder, "added_tokens.json"), JSON.stringify({ "<think>": 8192, "<|image|>": 8193 }));
    edit("special_tokens_map.json", { additional_special_tokens: ["<|image|>"] });
    expect((await assets()).text.added).toEqual([
      { id: 8192, content: "<think>", special: false },
      { id: 8193, content: "<|image|>", special: true },
    ]);
    edit("tokenizer_config.json", {
      added_tokens_decoder: { 8192: { content: "<think>", special: true }, 2: { content: "</s>", special: true } },
    });
    expect((await assets()).text.added.map(({ id, special }) => [id, special])).toEqual([
      [2, true],
      [8192, true],
      [8193, true],
    ]);
  });

  it("takes tokenizer.json's list where there is no other", async () => {
    edit("config.json", { vocab_size: 8200 });
    writeFileSync(join(folder, "tokenizer.json"), JSON.stringify({ added_tokens: [{ id: 8192, content: "<a>", special: false }] }));
    expect((await assets()).text.added).toEqual([{ id: 8192, content: "<a>", special: false }]);
  });
});

describe("bad tokenizer files", () => {
  it.each([
    ["an id outside the vocabulary", { "<a>": 8192 }, "tokenizer-added-token"],
    ["an id that is no integer", { "<a>": 1.5 }, "tokenizer-added-token"],
    ["an id that is no number", { "<a>": "5" }, "tokenizer-added-token"],
    ["an empty token", { "": 8191 }, "tokenizer-added-token"],
    ["an endless token", { ["a".repeat(5000)]: 8191 }, "tokenizer-added-token"],
    ["another name for a piece", { "<a>": 3 }, "tokenizer-added-token"],
  ])("%s", async (_, added, code) => {
    writeFileSync(join(folder, "added_tokens.json"), JSON.stringify(added));
    expect((await refusal(assets)).code).toBe(code);
  });

  it("one id for two tokens, one token with two ids", async () => {
    edit("config.json", { vocab_size: 8200 });
    writeFileSync(join(folder, "added_tokens.json"), JSON.stringify({ "<a>": 8192, "<b>": 8192 }));
    expect((await refusal(assets)).code).toBe("tokenizer-conflict");
    writeFileSync(join(folder, "added_tokens.json"), JSON.stringify({ "<s>": 8192 }));
    expect((await refusal(assets)).code).toBe("tokenizer-conflict");
  });

  it.each([
    ["tokenizer_config.json", { additional_special_tokens: [5] }, "tokenizer-special-tokens"],
    ["tokenizer_config.json", { chat_template: 5 }, "chat-template"],
    ["tokenizer_config.json", { added_tokens_decoder: { x: "y" } }, "tokenizer-added-token"],
    ["generation_config.json", { do_sample: true, temperature: -1 }, "config-out-of-range"],
    ["generation_config.json", { top_p: 0 }, "config-out-of-range"],
    ["generation_config.json", { top_k: 1.5 }, "config-wrong-type"],
    ["generation_config.json", { repetition_penalty: "1" }, "config-wrong-type"],
    ["generation_config.json", { eos_token_id: 8192 }, "config-out-of-range"],
    ["config.json", { vocab_size: 100 }, "tokenizer-too-large"],
  ])("%s with %j", async (name, changes, code) => {
    edit(name, changes);
    expect((await refusal(assets)).code).toBe(code);
  });

  it("a tokenizer.model cut short, not protobuf, or empty", async () => {
    const bytes = readFileSync(join(MINI, "tokenizer.model"));
    for (const content of [bytes.subarray(0, 5000), bytes.subarray(0, -201), Buffer.from("not protobuf at all"), Buffer.alloc(0)]) {
      writeFileSync(join(folder, "tokenizer.model"), content);
      const error = await refusal(assets);
      expect([error.code, error.place]).toEqual(["tokenizer-corrupt", join(folder, "tokenizer.model")]);
    }
  });

  it("gives pieces or a Diagnostic, whatever the bytes are", () => {
    const whole = readFileSync(join(MINI, "tokenizer.model"));
    let end = 0;
    while (end < 600) end += 2 + (whole[end + 1] as number);
    // Specs of trainer and normalizer, empty, and then so many pieces.
    const bytes = Buffer.concat([Uint8Array.of(0x12, 0, 0x1a, 0), whole.subarray(0, end)]);
    expect(parsePieces(bytes, "tokenizer.model").length).toBeGreaterThan(20);
    const refused = (input: Uint8Array): void => {
      try {
        expect(parsePieces(input, "tokenizer.model").length).toBeGreaterThan(0);
      } catch (error) {
        if (!(error instanceof Diagnostic)) throw error;
      }
    };
    fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), refused), { numRuns: 300 });
    const edits = fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(edits, (changes) => {
        const copy = Uint8Array.from(bytes);
        for (const [at, byte] of changes) copy[at] = byte;
        refused(copy);
      }),
      { numRuns: 300 },
    );
  });
});

describe("chat.json", () => {
  it("keeps a template that says something else", async () => {
    edit("tokenizer_config.json", { chat_template: "{{ cls_token }}{% for m in messages %}{{ m.content }}{% endfor %}" });
    const { chat } = await assets();
    expect(chat).toMatchObject({ form: "jinja", variables: { cls_token: "<|begin_of_sentence|>" } });
    expect(chat?.specials).toEqual(expect.arrayContaining(["<s>", "</s>", "<mask:0>", "<|begin_of_sentence|>"]));
  });

  it("takes it from its own file first, and from a list of named ones", async () => {
    edit("tokenizer_config.json", {
      chat_template: [
        { name: "tools", template: "a" },
        { name: "default", template: "b" },
      ],
    });
    expect((await assets()).chat?.source).toBe("b");
    writeFileSync(join(folder, "chat_template.jinja"), "c");
    expect((await assets()).chat?.source).toBe("c");
  });

  it("without one takes the family's own", async () => {
    edit("tokenizer_config.json", { chat_template: undefined });
    expect((await assets()).chat).toEqual({ format: 1, form: "ernie-text" });
    edit("config.json", { vocab_size: 8200 });
    writeFileSync(join(folder, "added_tokens.json"), JSON.stringify({ "<|im_start|>": 8192, "<think>": 8193 }));
    expect((await assets()).chat).toEqual({ format: 1, form: "ernie-thinking" });
  });

  it("warns of one that fails, asks for endless memory, or never ends", async () => {
    for (const chat_template of [
      "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
      "{{ raise_exception('no') }}",
      "{% for i in range(100000000) %}{% for j in range(100000000) %}{% endfor %}{% endfor %}",
    ]) {
      edit("tokenizer_config.json", { chat_template });
      const { chat, warnings } = await assets();
      expect([chat?.form, warnings.map(({ code }) => code)]).toEqual(["jinja", ["chat-template"]]);
    }
  });

  it("recognises the Thinking form", async () => {
    const chat_template = [
      "<|im_start|>system\n{% if messages[0].role == 'system' %}<system_setting>\n{{ messages[0].content }}\n</system_setting>\n\n{% endif %}",
      "<global_setting>\nthink_mode=True\n</global_setting><|im_end|>\n\n",
      "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n\n",
      "{% elif m.role == 'assistant' %}<|im_start|>assistant\n<response>\n{{ m.content }}\n</response>\n<|im_end|>\n\n{% endif %}{% endfor %}",
      "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    ].join("");
    edit("tokenizer_config.json", { chat_template: chat_template.replaceAll("\n", "{{ '\\n' }}") });
    expect((await assets()).chat).toEqual({ format: 1, form: "ernie-thinking" });
  });
});
