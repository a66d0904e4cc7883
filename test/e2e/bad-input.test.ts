/** What is wrong with a model or a command line is said, and nothing half-made stays. Each piece has finer tests of its own; here it comes through the front door. */

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { execa } from "execa";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { reportFailure } from "../../src/cli/failure.js";
import { createProgram } from "../../src/cli/program.js";
import { verifyPackage } from "../../src/cli/verify.js";
import { compile } from "../../src/compile.js";
import { resolveRequest } from "../../src/frontend/model-json.js";
import type { Engine } from "../../src/host/api.js";
import {
  addTensor,
  copyModel,
  editJson,
  editSafetensors,
  expectWhole,
  freshPath,
  type Header,
  MINI,
  protobufFields,
  refusalOf,
  safetensors,
  TINY,
  TINY_MOE,
} from "./bad-folders.js";
import { CLI, cli, cliOk, WORK } from "./support.js";

type Change = [what: string, change: (folder: string) => void, code: RegExp, place?: string];

/** Builds a changed copy, in this process: it is refused, and nothing is written. */
async function expectRefused(model: string, change: Change[1], code: RegExp, place = "", ...links: string[]): Promise<void> {
  const folder = copyModel(model, ...links);
  change(folder);
  const out = freshPath("out");
  const error = await refusalOf(async () => compile(await resolveRequest(folder, { out })));
  expect(error.code).toMatch(code);
  expect(error.place).toContain(place);
  expect(error.summary).toMatch(/found|expected/);
  expect(existsSync(out)).toBe(false);
}

const config =
  (changes: { readonly [key: string]: unknown }) =>
  (folder: string): void =>
    editJson(join(folder, "config.json"), changes);
const rawConfig =
  (text: string | Uint8Array) =>
  (folder: string): void =>
    writeFileSync(join(folder, "config.json"), text);
const weights =
  (edit: Parameters<typeof editSafetensors>[1]) =>
  (folder: string): void =>
    editSafetensors(join(folder, "model.safetensors"), edit);
const tensor = (header: Header, name: string) => header[name] as Header[string];

describe("a config", () => {
  const sizes = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size"];
  const changes: Change[] = [
    ...sizes.map((key): Change => [`without ${key}`, config({ [key]: undefined }), /^config-missing-field$/, key]),
    ...sizes.map((key): Change => [`${key} a text`, config({ [key]: "128" }), /^config-wrong-type$/, key]),
    ...sizes.map((key): Change => [`${key} negative`, config({ [key]: -4 }), /^config-out-of-range$/, key]),
    ...sizes.map((key): Change => [`${key} huge`, config({ [key]: 1e15 }), /^config-out-of-range$/, key]),
    ...sizes.map((key): Change => [`${key} zero`, config({ [key]: 0 }), /^config-out-of-range$/, key]),
    ["heads that kv heads don't divide", config({ num_key_value_heads: 3 }), /^config-not-dividing$/, "num_key_value_heads"],
    ["an odd head_dim", config({ head_dim: 33 }), /^config-not-dividing$/, "head_dim"],
    ["a head_dim that does not follow", config({ head_dim: undefined, hidden_size: 130 }), /^config-missing-field$/, "head_dim"],
    [
      "more parameters than any machine holds",
      config({ hidden_size: 2 ** 20, intermediate_size: 2 ** 20, num_hidden_layers: 1024 }),
      /^config-too-large$/,
    ],
    ["an eps of zero", config({ rms_norm_eps: 0 }), /^config-out-of-range$/, "rms_norm_eps"],
    ["an end token beyond the vocabulary", config({ eos_token_id: 384 }), /^config-out-of-range$/, "eos_token_id"],
    ["no type", config({ model_type: undefined, architectures: undefined }), /^config-missing-field$/, "model_type"],
    ["an unknown type", config({ model_type: "llama", architectures: undefined }), /^config-unknown-model-type$/, "model_type"],
    ["an unknown architecture", config({ architectures: ["LlamaForCausalLM"] }), /^config-unknown-architecture$/, "architectures"],
    ["a hostile type", config({ model_type: "*/${x}\u0000\"'\n\u001b[31m", architectures: undefined }), /^config-unknown-model-type$/],
    ["a vision-language type", config({ model_type: "ernie4_5_moe_vl" }), /^config-vl-unsupported$/, "model_type"],
    ["a vision part", config({ vision_config: { depth: 2 } }), /^config-vl-unsupported$/, "vision_config"],
    ["a quantised checkpoint", config({ quantization_config: { quant_type: "wint4" } }), /^config-unsupported$/, "quantization_config"],
    ["a scaled RoPE", config({ rope_scaling: { type: "yarn", factor: 2 } }), /^config-unsupported$/, "rope_scaling"],
    ["no JSON", rawConfig("{"), /^json-syntax$/, "config.json:1"],
    ["nothing", rawConfig(""), /^json-syntax$/, "config.json"],
    ["a list", rawConfig("[]"), /^json-not-object$/, "config.json"],
    ["a key twice", rawConfig('{"vocab_size": 1, "vocab_size": 2}'), /^json-duplicate-key$/, "config.json"],
    ["no UTF-8", rawConfig(Uint8Array.of(0x7b, 0xff, 0x7d)), /^json-not-utf8$/, "config.json"],
    ["endless brackets", rawConfig("[".repeat(1e6)), /^json-syntax$/, "config.json"],
    ["no file", (folder) => rmSync(join(folder, "config.json")), /^input-no-config$/],
  ];
  it.each(changes)("with %s is refused", (_, change, code, place) => expectRefused(TINY, change, code, place, "model.safetensors"));

  const moe: Change[] = [
    ["no experts in a model of experts", config({ moe_num_experts: undefined }), /^config-/, "moe_num_experts"],
    ["more experts a token than there are", config({ moe_k: 99 }), /^config-/, "moe_k"],
    ["no expert a token", config({ moe_k: 0 }), /^config-out-of-range$/, "moe_k"],
    ["an interval of zero", config({ moe_layer_interval: 0 }), /^config-out-of-range$/, "moe_layer_interval"],
    ["an end before the start", config({ moe_layer_start_index: 3, moe_layer_end_index: 1 }), /^config-no-moe-layer$/, "moe_layer"],
    ["experts of two modalities", config({ moe_num_experts: [64, 64] }), /^config-vl-unsupported$/, "moe_num_experts"],
  ];
  it.each(moe)("with %s is refused", (_, change, code, place) => expectRefused(TINY_MOE, change, code, place, "model.safetensors"));
});

describe("weights", () => {
  const norm = "model.norm.weight";
  const up = "model.layers.0.mlp.up_proj.weight";
  const whole = readFileSync(join(TINY, "model.safetensors"));
  const raw =
    (bytes: Uint8Array) =>
    (folder: string): void =>
      writeFileSync(join(folder, "model.safetensors"), bytes);
  const headerText = whole.subarray(8, 8 + Number(whole.readBigUInt64LE())).toString();
  const data = whole.subarray(8 + Number(whole.readBigUInt64LE()));
  /** As shards, listed by this index. */
  const sharded =
    (shard: string, edit: (map: Record<string, string>) => void = () => {}) =>
    (folder: string): void => {
      const names = Object.keys(JSON.parse(headerText) as Header).filter((name) => name !== "__metadata__");
      const map = Object.fromEntries(names.map((name) => [name, shard]));
      edit(map);
      renameSync(join(folder, "model.safetensors"), join(folder, "model-00001-of-00001.safetensors"));
      writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map: map }));
    };
  const changes: Change[] = [
    [
      "without a tensor",
      weights((header, bytes) => ((header["model.spare.weight"] = tensor(header, norm)), delete header[norm], bytes)),
      /^tensor-missing$/,
    ],
    [
      "with an unknown tensor",
      weights((header, bytes) => addTensor(header, bytes, "model.layers.0.mlp.spare.weight")),
      /^tensor-unknown$/,
      "spare",
    ],
    [
      "with a tensor in two spellings",
      weights((header, bytes) => addTensor(header, bytes, "ernie.embed_tokens.weight")),
      /^tensor-duplicate$/,
    ],
    ["of another shape", weights((header) => void (tensor(header, up).shape = [128 * 320])), /^tensor-shape$/, up],
    ["of another type", weights((header) => void (tensor(header, norm).dtype = "I16")), /^tensor-dtype$/, norm],
    ["of an unknown type", weights((header) => void (tensor(header, norm).dtype = "F4")), /^safetensors-unknown-dtype$/, norm],
    [
      "with a name twice",
      raw(safetensors(headerText.replace(/}\s*$/, `,"${norm}":{"dtype":"BF16","shape":[0],"data_offsets":[0,0]}}`), data)),
      /^safetensors-duplicate$/,
    ],
    ["cut short in the data", raw(whole.subarray(0, -1000)), /^safetensors-out-of-file$/],
    ["cut short in the header", raw(whole.subarray(0, 200)), /^safetensors-truncated$/],
    ["cut short in the length", raw(whole.subarray(0, 5)), /^safetensors-truncated$/],
    ["empty", raw(new Uint8Array()), /^safetensors-truncated$/],
    [
      "with a header that claims to be longer",
      raw(safetensors(headerText, data, BigInt(headerText.length + 40))),
      /^safetensors-bad-header$/,
    ],
    [
      "with a header that claims to be shorter",
      raw(safetensors(headerText, data, BigInt(headerText.length - 40))),
      /^safetensors-bad-header$/,
    ],
    ["with a header longer than the file", raw(safetensors(headerText, data, BigInt(whole.length * 2))), /^safetensors-truncated$/],
    ["with a header over 100 MB", raw(safetensors(headerText, data, 100_000_001n)), /^safetensors-header-too-large$/],
    ["with a header of 2^64 - 1 bytes", raw(safetensors(headerText, data, 2n ** 64n - 1n)), /^safetensors-header-too-large$/],
    ["that overlap", weights((header) => void (tensor(header, norm).data_offsets = [0, 256])), /^safetensors-(overlap|hole)$/],
    [
      "outside the file",
      weights((header, bytes) => void (tensor(header, norm).data_offsets = [bytes.length, bytes.length + 256])),
      /^safetensors-out-of-file$/,
      norm,
    ],
    [
      "with offsets that run backwards",
      weights((header) => void (tensor(header, norm).data_offsets = [256, 0])),
      /^safetensors-bad-offsets$/,
      norm,
    ],
    [
      "of a size that is not the shape's",
      weights((header) => void (tensor(header, norm).shape = [127])),
      /^safetensors-size-mismatch$/,
      norm,
    ],
    ["of 2^63 elements", weights((header) => void (tensor(header, norm).shape = [2 ** 53, 1024])), /^safetensors-/, norm],
    ["with bytes after the last tensor", raw(Buffer.concat([whole, Buffer.alloc(8)])), /^safetensors-hole$/],
    ["that are text", raw(Buffer.from("<html>not found</html>".repeat(9))), /^safetensors-(header-too-large|bad-header|truncated)$/],
    ["in a shard outside the folder", sharded("../model.safetensors"), /^weights-shard-name$/],
    ["in a shard with an absolute path", sharded("/etc/model.safetensors"), /^weights-shard-name$/],
    ["in a shard that is missing", sharded("model-00002-of-00002.safetensors"), /^weights-shard-missing$/],
    [
      "whose index names a tensor that is not there",
      sharded("model-00001-of-00001.safetensors", (map) => void (map.spare = map[norm] as string)),
      /^weights-index-mismatch$/,
      "spare",
    ],
    [
      "whose index lacks a tensor",
      sharded("model-00001-of-00001.safetensors", (map) => void delete map[norm]),
      /^weights-index-mismatch$/,
      norm,
    ],
    [
      "in another format",
      (folder) => renameSync(join(folder, "model.safetensors"), join(folder, "pytorch_model.bin")),
      /^weights-missing$/,
    ],
  ];
  it.each(changes)("%s are refused", (_, change, code, place) => expectRefused(TINY, change, code, place));
});

describe("a tokenizer", () => {
  const whole = readFileSync(join(MINI, "tokenizer.model"));
  const fields = protobufFields(whole);
  const pieces = fields.filter(({ number }) => number === 1);
  const model =
    (bytes: Uint8Array) =>
    (folder: string): void =>
      writeFileSync(join(folder, "tokenizer.model"), bytes);
  const cutAt = (n: number) => whole.subarray(0, (pieces[n] as (typeof pieces)[number]).end);
  const changes: Change[] = [
    ["cut short in a piece", model(whole.subarray(0, 50_001)), /^tokenizer-corrupt$/, "tokenizer.model"],
    ["cut short between two pieces", model(cutAt(4000)), /^tokenizer-corrupt$/, "tokenizer.model"],
    ["cut short after the pieces", model(cutAt(pieces.length - 1)), /^tokenizer-corrupt$/, "tokenizer.model"],
    ["of text", model(Buffer.from("<html>not found</html>")), /^tokenizer-corrupt$/, "tokenizer.model"],
    ["of zeros", model(new Uint8Array(4096)), /^tokenizer-corrupt$/, "tokenizer.model"],
    ["of nothing", model(new Uint8Array()), /^tokenizer-corrupt$/, "tokenizer.model"],
    ["with more pieces than the vocabulary", config({ vocab_size: 100 }), /^tokenizer-too-large$/, "tokenizer.model"],
    [
      "with an added token outside the vocabulary",
      (folder) => editJson(join(folder, "added_tokens.json"), { "<a>": 8192 }),
      /^tokenizer-added-token$/,
      "added_tokens.json",
    ],
    [
      "with one id for two tokens",
      (folder) => editJson(join(folder, "added_tokens.json"), { "<a>": 3 }),
      /^tokenizer-/,
      "added_tokens.json",
    ],
    [
      "with a list of special tokens that is none",
      (folder) => editJson(join(folder, "special_tokens_map.json"), { additional_special_tokens: 5 }),
      /^tokenizer-special-tokens$/,
    ],
    [
      "with a chat template that is none",
      (folder) => editJson(join(folder, "tokenizer_config.json"), { chat_template: 5 }),
      /^chat-template$/,
    ],
    [
      "with sampling defaults out of range",
      (folder) => editJson(join(folder, "generation_config.json"), { do_sample: true, temperature: -1 }),
      /^config-out-of-range$/,
      "temperature",
    ],
    [
      "with sampling defaults of another type",
      (folder) => editJson(join(folder, "generation_config.json"), { top_k: "all" }),
      /^config-wrong-type$/,
      "top_k",
    ],
  ];
  it.each(changes)("%s is refused", (_, change, code, place) => expectRefused(MINI, change, code, place, "model.safetensors"));

  /** The frontend reads only what it needs of tokenizer.model; the runtime is asked before anybody gets the package. */
  it("that only the runtime refuses is refused when the package is built", async () => {
    const folder = copyModel(MINI, "model.safetensors");
    const at = whole.indexOf(Buffer.from("<0x41>"));
    expect(at).toBeGreaterThan(0);
    const changed = Buffer.from(whole);
    changed.write("<0x42>", at);
    model(changed)(folder);
    const out = freshPath("out");
    const { exitCode, stdout } = await cli(["build", folder, "-o", out, "--json"]);
    const { error } = JSON.parse(stdout) as { error: unknown };
    expect([exitCode, error]).toEqual([1, expect.objectContaining({ code: "tokenizer-refused", place: join(folder, "tokenizer.model") })]);
    expectWhole(error);
    expect(existsSync(out)).toBe(false);
  });
});

/** What the command line throws, and the exit code that it makes of it; in this process, which is faster and the same. */
async function refusedByCli(args: readonly string[]): Promise<{ exitCode: number; code: string }> {
  const error = await refusalOf(() => createProgram().parseAsync(["build", ...args, "--json"], { from: "user" }));
  const write = vi.spyOn(process.stdout, "write").mockReturnValue(true);
  try {
    const exitCode = reportFailure(error, true);
    expect(JSON.parse(String(write.mock.lastCall?.[0]))).toEqual({ error: error.toJSON() });
    return { exitCode, code: error.code };
  } finally {
    write.mockRestore();
  }
}

describe("text that means something elsewhere", () => {
  const HOSTILE = "\"'`\n\r*/ // ${process.exit(3)} {{evil}} \u2028 \\\\ #include </etc/passwd> \u202e\u0000 HOSTILE";
  /** Data may hold it; code may not. */
  const DATA = ["text.json", "chat.json", "manifest.json", "tokenizer.model"];

  function expectClean(folder: string): void {
    for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() || DATA.includes(entry.name)) continue;
      expect(readFileSync(join(entry.parentPath, entry.name)).includes("HOSTILE"), entry.name).toBe(false);
    }
  }

  it("stays out of the sources: from config, special tokens, templates and the folder's name", async () => {
    const folder = join(WORK, `mo"del\n* \${x} 'HOSTILE' ${process.pid}`);
    renameSync(copyModel(MINI, "model.safetensors"), folder);
    editJson(join(folder, "config.json"), { vocab_size: 8200, _name_or_path: HOSTILE, [HOSTILE]: HOSTILE, transformers_version: "5.0" });
    editJson(join(folder, "added_tokens.json"), { [HOSTILE]: 8192 });
    const template = `{# ${HOSTILE.replaceAll("{{", "").replaceAll("#", "")} #}{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}`;
    editJson(join(folder, "tokenizer_config.json"), { chat_template: template, extra_token: HOSTILE });
    const out = freshPath("out");
    await cliOk(["build", folder, "-o", out, "--weights", "synthetic:1"]);
    expectClean(out);
    const { load } = (await import(pathToFileURL(join(out, "index.js")).href)) as { load: () => Promise<Engine> };
    const engine = await load();
    expect([...engine.tokenize([{ kind: "template", text: HOSTILE }])]).toEqual([8192]);
    expect([...engine.tokenize(HOSTILE)]).not.toContain(8192);
    for await (const piece of engine.chat([{ role: "user", content: HOSTILE }], { maxTokens: 2 })) expect(piece.ids.length).toBeLessThan(3);
    await engine.dispose();
  });

  it("stays out of the sources: from names of tensors and the output folder's name", async () => {
    const folder = copyModel(TINY);
    weights((header, bytes) => addTensor(header, bytes, `model.mtp_block.0.${HOSTILE}\u0000`))(folder);
    const out = join(WORK, `o"ut\n* \${x} 'HOSTILE' # ? % ${process.pid}`);
    const { stdout } = await cliOk(["build", folder, "-o", out, "--json"]);
    expect(JSON.parse(stdout)).toMatchObject({ out, unused: [{ name: `model.mtp_block.0.${HOSTILE}\u0000` }] });
    expectClean(out);
    expect((await verifyPackage(out)).findings).toEqual([]);
    expect((await cli(["logits", out, "--ids", "1,2,3", "-o", join(WORK, "hostile.safetensors")])).exitCode).toBe(0);
  });

  it("is shown without control characters", async () => {
    const folder = copyModel(TINY);
    weights((header, bytes) => addTensor(header, bytes, `\u001b[2J\u0000\u202e${HOSTILE}`))(folder);
    const { exitCode, stderr } = await cli(["build", folder, "-o", freshPath()]);
    expect(exitCode).toBe(1);
    expect(stderr).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u202e]/);
  });
});

describe("a command line that asks for what there is not", () => {
  it.each([
    [["--arch", "x86-64-v9"], 2, "request-value"],
    [["--arch", "sm_90a"], 2, "arch-other-target"],
    [["--target", "cuda", "--activations", "f32"], 1, "request-activations-unsupported"],
    [["--target", "cuda", "--arch", "sm_90a", "--cuda", "/nowhere"], 1, "nvcc-missing"],
    [["--activations", "f16"], 2, "request-value"],
    [["--weights", "synthetic:-1"], 2, "request-value"],
    [["--block-size", "17"], 2, "request-value"],
    [["--max-context", "100000"], 2, "request-context-too-long"],
    [["--kv-tokens", "16", "--max-context", "64"], 2, "request-kv-too-small"],
    [["--disable-pass", "fuse-nothing"], 2, "unknown-pass"],
    [["--print-ir=text"], 2, "unknown-level"],
    [["--cxx", "/nowhere/g++"], 1, "cxx-missing"],
    [["--tuning", "/nowhere"], 1, "tuning-unreadable"],
    [["--dump-dir", "/proc/nowhere"], 1, "file-missing"],
  ])("%j", async (flags, exitCode, code) => {
    const out = freshPath("out");
    expect(await refusedByCli([TINY, "-o", out, ...flags])).toEqual({ exitCode, code });
    expect(existsSync(out)).toBe(false);
  });

  it.each([
    ["/nowhere/at/all", "input-not-found"],
    ["ERNIE-4.5-VL-28B-A3B-PT", "input-vl-unsupported"],
    [WORK, "input-no-config"],
  ])("a model that is not there: %s", async (input, code) => {
    expect(await refusedByCli([input, "-o", freshPath()])).toEqual({ exitCode: 1, code });
  });

  it("says it to people in the form that every error has", async () => {
    const folder = copyModel(TINY, "model.safetensors");
    config({ num_key_value_heads: 3 })(folder);
    const { exitCode, stdout, stderr } = await cli(["build", folder, "-o", freshPath()]);
    expect([exitCode, stdout]).toEqual([1, ""]);
    expect(stderr.trim().split("\n")).toEqual([
      "config-not-dividing: found 3, expected a divisor of num_attention_heads, which is 4",
      `  --> ${join(folder, "config.json")}: num_key_value_heads`,
      expect.stringMatching(/^ {2}hint: \S/),
    ]);
  });
});

describe("an output folder", () => {
  it.each(["notes.txt", "index.js", "manifest.json", "build-mine"])("that holds somebody's %s is left alone", async (name) => {
    const out = freshPath("out");
    mkdirSync(out);
    writeFileSync(join(out, name), "mine");
    expect(await refusedByCli([TINY, "-o", out])).toEqual({ exitCode: 1, code: "output-foreign" });
    expect([readdirSync(out), readFileSync(join(out, name), "utf8")]).toEqual([[name], "mine"]);
  });

  it("that is a file, the model itself, or can't be made", async () => {
    const folder = copyModel(TINY);
    const before = readdirSync(folder);
    for (const [out, code] of [
      [join(folder, "config.json"), "output-foreign"],
      [folder, "output-foreign"],
      [join(folder, "config.json", "x"), "output-foreign"],
      ["/proc/nowhere/x", "file-missing"],
    ] as const) {
      expect(await refusedByCli([folder, "-o", out])).toEqual({ exitCode: 1, code });
    }
    expect(readdirSync(folder)).toEqual(before);
  });

  it("on a full disk, and a cache on one", async () => {
    const mount = freshPath("mount");
    mkdirSync(mount);
    const onDiskOf = (size: string, command: string) =>
      execa(
        "unshare",
        [
          "-rm",
          "sh",
          "-c",
          `mount -t tmpfs -o size=${size} tmpfs "$0" || exit 99; ${command}; code=$?; ls -A "$0" >&2; exit $code`,
          mount,
          TINY,
        ],
        {
          reject: false,
          timeout: 120_000,
        },
      );
    if ((await onDiskOf("1m", "true")).exitCode !== 0) return console.warn("skipped: no file system can be mounted here");
    const full = await onDiskOf("1m", `"${process.execPath}" "${CLI}" build "$1" -o "$0/package" --json`);
    expect([full.exitCode, JSON.parse(full.stdout), full.stderr]).toMatchObject([1, { error: { kind: "environment" } }, ""]);
    expect((JSON.parse(full.stdout) as { error: { code: string } }).error.code).toMatch(/disk-full$/);
    // Room for no file at all: nothing is compiled before that is found.
    const out = freshPath("out");
    const command = `ERNIE_COMPILE_CACHE="$0/cache" "${process.execPath}" "${CLI}" build "$1" -o "${out}" --json`;
    const cache = await onDiskOf("1m,nr_inodes=2", command);
    const { error } = JSON.parse(cache.stdout) as { error: unknown };
    expectWhole(error);
    expect([cache.exitCode, error, existsSync(out)]).toEqual([
      1,
      expect.objectContaining({ kind: "environment", message: expect.stringMatching(/space/) }),
      false,
    ]);
  });
});

describe("a compiler that fails", () => {
  it("ends the build, with its own words, and leaves nothing", async () => {
    const script = freshPath("cxx");
    writeFileSync(script, '#!/bin/sh\ncase "$*" in *--version*|*-dumpmachine*) exec g++ "$@";; esac\necho "error: no more" >&2\nexit 4\n', {
      mode: 0o755,
    });
    const out = freshPath("deep/er");
    const { exitCode, stdout } = await cli(["build", TINY, "-o", out, "--cxx", script, "--json"], {
      env: { ERNIE_COMPILE_CACHE: freshPath("cache") },
    });
    const { error } = JSON.parse(stdout) as { error: object };
    expectWhole(error);
    expect([exitCode, error]).toEqual([
      1,
      expect.objectContaining({ code: "cxx-failed", message: expect.stringContaining("error: no more") }),
    ]);
    expect([existsSync(out), existsSync(join(out, ".."))]).toEqual([false, false]);
  });
});

describe("builds into one folder", () => {
  let out = "";
  beforeAll(async () => {
    out = freshPath("shared");
    await cliOk(["build", TINY, "-o", out]);
  });
  const args = () => [CLI, "build", TINY, "-o", out, "--max-batch", "2"];
  const buildOf = () => (JSON.parse(readFileSync(join(out, "manifest.json"), "utf8")) as { build: string }).build;

  const leftovers = () => readdirSync(out).filter((name) => name.startsWith("build-tmp") || name.startsWith("."));

  it("at the same time: one of them, or one after the other", async () => {
    const results = await Promise.all([1, 2, 3].map(() => cli(["build", TINY, "-o", out, "--json"])));
    expect(results.filter(({ exitCode }) => exitCode === 0).length).toBeGreaterThan(0);
    for (const { exitCode, stdout } of results)
      if (exitCode !== 0) expect([exitCode, JSON.parse(stdout)]).toMatchObject([1, { error: { code: "output-locked" } }]);
    expect((await verifyPackage(out)).findings).toEqual([]);
  });

  /** Ends a build once it has said so many lines, which is after so many phases, and a little later. */
  async function endAfter(lines: number, delay: number, signal: "SIGKILL" | "SIGINT", command: readonly string[] = args()) {
    const child = execa(process.execPath, command, { reject: false, timeout: 120_000, env: { NO_COLOR: "1" } });
    let seen = 0;
    let sent = false;
    child.stderr.on("data", (chunk: Buffer) => {
      seen += chunk.toString().split("\n").length - 1;
      if (seen < lines || sent) return;
      sent = true;
      setTimeout(() => child.kill(signal), delay);
    });
    return await child;
  }

  it("that are killed leave the old package or the new one", async () => {
    for (const [lines, delay] of [
      [1, 0],
      [3, 100],
      [4, 0],
      [5, 0],
      [6, 0],
    ] as const) {
      const before = buildOf();
      const { signal } = await endAfter(lines, delay, "SIGKILL");
      if (signal === "SIGKILL" && lines < 5) expect(buildOf()).toBe(before);
      expect((await verifyPackage(out)).findings).toEqual([]);
    }
    await cliOk(["build", TINY, "-o", out]);
    expect(leftovers()).toEqual([]);
    expect((await verifyPackage(out)).findings).toEqual([]);
  });

  it("that are interrupted end with 130, and leave nothing of themselves", async () => {
    const before = buildOf();
    for (const lines of [1, 2]) {
      const { exitCode, stderr } = await endAfter(lines, 0, "SIGINT");
      expect([exitCode, stderr]).toEqual([130, expect.stringContaining("interrupted")]);
      expect([buildOf(), leftovers()]).toEqual([before, []]);
    }
    // Late, a build may be done before it hears of it.
    const late = await endAfter(3, 50, "SIGINT");
    expect([late.exitCode, leftovers()]).toEqual([130, []]);
    const fresh = freshPath("fresh");
    expect((await endAfter(2, 0, "SIGINT", [CLI, "build", TINY, "-o", fresh])).exitCode).toBe(130);
    expect(existsSync(fresh)).toBe(false);
    expect((await verifyPackage(out)).findings).toEqual([]);
  });
});
