// Turns a dense ERNIE checkpoint of checkpoint.mjs into a GGUF with the same numbers: bf16 matrices, f32 norms, a placeholder vocabulary.
// Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3.
//
//   node bench/peers/gguf.mjs <checkpoint folder> <file.gguf>

import { closeSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";

const ALIGN = 32;
const GGML = { f32: 0, bf16: 30 };
const NAMES = {
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
  input_layernorm: "attn_norm",
  post_attention_layernorm: "ffn_norm",
};

function ggufName(name) {
  if (name === "model.embed_tokens.weight") return "token_embd.weight";
  if (name === "model.norm.weight") return "output_norm.weight";
  const [, layer, part] = /^model\.layers\.(\d+)\.(.*)\.weight$/.exec(name);
  return `blk.${layer}.${NAMES[part]}.weight`;
}

class Bytes {
  parts = [];
  /** Metadata keys written so far. */
  keys = 0;
  push(buffer) {
    this.parts.push(buffer);
    return this;
  }
  u32(v) {
    const b = Buffer.alloc(4);
    b.writeUInt32LE(v);
    return this.push(b);
  }
  u64(v) {
    const b = Buffer.alloc(8);
    b.writeBigUInt64LE(BigInt(v));
    return this.push(b);
  }
  f32(v) {
    const b = Buffer.alloc(4);
    b.writeFloatLE(v);
    return this.push(b);
  }
  string(s) {
    const b = Buffer.from(s);
    return this.u64(b.length).push(b);
  }
  /** Starts a metadata key of a GGUF type: 4 u32, 5 i32, 6 f32, 8 string, 9 array. */
  key(name, type) {
    this.keys++;
    return this.string(name).u32(type);
  }
  keyU32(name, v) {
    return this.key(name, 4).u32(v);
  }
  keyF32(name, v) {
    return this.key(name, 6).f32(v);
  }
  keyString(name, v) {
    return this.key(name, 8).string(v);
  }
  keyArray(name, type, count) {
    return this.key(name, 9).u32(type).u64(count);
  }
}

/** A placeholder SentencePiece-like vocabulary of the right size: the speed of decoding does not depend on its text. */
function vocabulary(head, size) {
  const type = { normal: 1, unknown: 2, control: 3, byte: 6 };
  const pieces = [
    ["<unk>", type.unknown],
    ["<s>", type.control],
    ["</s>", type.control],
  ];
  for (let i = 0; i < 256; i++) pieces.push([`<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`, type.byte]);
  while (pieces.length < size) pieces.push([`t${pieces.length}`, type.normal]);
  head.keyString("tokenizer.ggml.model", "llama");
  head.keyArray("tokenizer.ggml.tokens", 8, size);
  for (const [text] of pieces) head.string(text);
  head.keyArray("tokenizer.ggml.scores", 6, size);
  for (let i = 0; i < size; i++) head.f32(-i);
  head.keyArray("tokenizer.ggml.token_type", 5, size);
  for (const [, kind] of pieces) head.u32(kind);
  head.keyU32("tokenizer.ggml.bos_token_id", 1).keyU32("tokenizer.ggml.eos_token_id", 2).keyU32("tokenizer.ggml.unknown_token_id", 0);
}

export function writeGguf(folder, target) {
  const c = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
  const source = openSync(join(folder, "model.safetensors"), "r");
  const length = Buffer.alloc(8);
  readSync(source, length, 0, 8, 0);
  const headerBytes = Number(length.readBigUInt64LE());
  const json = Buffer.alloc(headerBytes);
  readSync(source, json, 0, headerBytes, 8);
  const tensors = Object.entries(JSON.parse(json.toString())).filter(([name]) => name !== "__metadata__");

  const infos = new Bytes();
  let offset = 0;
  const plan = tensors.map(([name, { shape, data_offsets }]) => {
    const vector = shape.length === 1;
    const bytes = (data_offsets[1] - data_offsets[0]) * (vector ? 2 : 1);
    infos.string(ggufName(name)).u32(shape.length);
    for (const dim of [...shape].reverse()) infos.u64(dim);
    infos.u32(vector ? GGML.f32 : GGML.bf16).u64(offset);
    const entry = { vector, from: 8 + headerBytes + data_offsets[0], length: data_offsets[1] - data_offsets[0], offset, bytes };
    offset += Math.ceil(bytes / ALIGN) * ALIGN;
    return entry;
  });

  const keys = new Bytes();
  keys.keyString("general.architecture", "ernie4_5").keyString("general.name", "random ernie 4.5").keyU32("general.file_type", 32);
  const a = "ernie4_5.";
  keys.keyU32(`${a}block_count`, c.num_hidden_layers).keyU32(`${a}context_length`, c.max_position_embeddings);
  keys.keyU32(`${a}embedding_length`, c.hidden_size).keyU32(`${a}feed_forward_length`, c.intermediate_size);
  keys.keyU32(`${a}attention.head_count`, c.num_attention_heads).keyU32(`${a}attention.head_count_kv`, c.num_key_value_heads);
  keys.keyU32(`${a}attention.key_length`, c.head_dim).keyU32(`${a}attention.value_length`, c.head_dim);
  keys.keyU32(`${a}rope.dimension_count`, c.head_dim).keyF32(`${a}rope.freq_base`, c.rope_theta);
  keys.keyF32(`${a}attention.layer_norm_rms_epsilon`, c.rms_norm_eps).keyU32(`${a}vocab_size`, c.vocab_size);
  vocabulary(keys, c.vocab_size);

  const head = new Bytes();
  head.push(Buffer.from("GGUF")).u32(3).u64(tensors.length).u64(keys.keys);
  const file = openSync(target, "w");
  const front = Buffer.concat([...head.parts, ...keys.parts, ...infos.parts]);
  const base = Math.ceil(front.length / ALIGN) * ALIGN;
  writeSync(file, front, 0, front.length, 0);
  for (const { vector, from, length: n, offset: at } of plan) {
    const data = Buffer.alloc(n);
    readSync(source, data, 0, n, from);
    if (!vector) writeSync(file, data, 0, n, base + at);
    else {
      const wide = Buffer.alloc(2 * n);
      for (let i = 0; i < n; i += 2) wide.writeUInt16LE(data.readUInt16LE(i), 2 * i + 2);
      writeSync(file, wide, 0, wide.length, base + at);
    }
  }
  closeSync(file);
  closeSync(source);
}

if (process.argv[1] && import.meta.url.endsWith(process.argv[1].split("/").pop())) {
  const [folder, target] = process.argv.slice(2);
  if (!folder || !target) {
    console.error("usage: node bench/peers/gguf.mjs <checkpoint folder> <file.gguf>");
    process.exit(2);
  }
  writeGguf(folder, target);
}
