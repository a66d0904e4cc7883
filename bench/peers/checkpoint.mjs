// Writes a random ERNIE 4.5 checkpoint in Hugging Face layout (config.json + model.safetensors, bf16), the common ground of a comparison:
// we compile it, and gguf.mjs turns the same numbers into what llama.cpp reads.
//
//   node bench/peers/checkpoint.mjs <folder> [config.json]      default: the shapes of ERNIE-4.5-0.3B

import { createHash } from "node:crypto";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, renameSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";

export const CONFIG_03B = {
  architectures: ["Ernie4_5_ForCausalLM"],
  model_type: "ernie4_5",
  hidden_size: 1024,
  intermediate_size: 3072,
  num_hidden_layers: 18,
  num_attention_heads: 16,
  num_key_value_heads: 2,
  head_dim: 128,
  hidden_act: "silu",
  vocab_size: 103424,
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  use_bias: false,
  tie_word_embeddings: true,
  bos_token_id: 1,
  eos_token_id: 2,
  pad_token_id: 0,
  torch_dtype: "bfloat16",
};

/** [name, shape] of every tensor of a dense config, in file order. */
export function denseTensors(c) {
  const q = c.num_attention_heads * c.head_dim;
  const kv = c.num_key_value_heads * c.head_dim;
  const layers = Array.from({ length: c.num_hidden_layers }, (_, i) => {
    const p = `model.layers.${i}.`;
    return [
      [`${p}input_layernorm.weight`, [c.hidden_size]],
      [`${p}self_attn.q_proj.weight`, [q, c.hidden_size]],
      [`${p}self_attn.k_proj.weight`, [kv, c.hidden_size]],
      [`${p}self_attn.v_proj.weight`, [kv, c.hidden_size]],
      [`${p}self_attn.o_proj.weight`, [c.hidden_size, q]],
      [`${p}post_attention_layernorm.weight`, [c.hidden_size]],
      [`${p}mlp.gate_proj.weight`, [c.intermediate_size, c.hidden_size]],
      [`${p}mlp.up_proj.weight`, [c.intermediate_size, c.hidden_size]],
      [`${p}mlp.down_proj.weight`, [c.hidden_size, c.intermediate_size]],
    ];
  });
  return [["model.embed_tokens.weight", [c.vocab_size, c.hidden_size]], ...layers.flat(), ["model.norm.weight", [c.hidden_size]]];
}

/** bf16 noise of the given standard deviation from a table of 65536 numbers: fast, and different in every tensor. */
function noise(count, std, seed) {
  const table = new Uint16Array(65536);
  const f32 = new Float32Array(1);
  const bits = new Uint32Array(f32.buffer);
  const bytes = createHash("sha512").update(`ernie ${seed}`).digest();
  let state = bytes.readUInt32LE(0) | 1;
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
  for (let i = 0; i < table.length; i++) {
    f32[0] = Math.sqrt(-2 * Math.log(next() + 1e-12)) * Math.cos(2 * Math.PI * next()) * std;
    table[i] = (bits[0] + 0x8000) >>> 16;
  }
  const out = new Uint16Array(count);
  let hash = bytes.readUInt32LE(4) | 0;
  for (let i = 0; i < count; i++) {
    hash = (Math.imul(hash, 1664525) + 1013904223) | 0;
    out[i] = table[hash >>> 16];
  }
  return out;
}

export function writeCheckpoint(folder, config = CONFIG_03B) {
  mkdirSync(folder, { recursive: true });
  const target = join(folder, "model.safetensors");
  if (existsSync(target)) return;
  const header = {};
  let offset = 0;
  const tensors = denseTensors(config);
  for (const [name, shape] of tensors) {
    const bytes = shape.reduce((a, b) => a * b, 2);
    header[name] = { dtype: "BF16", shape, data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  const json = Buffer.from(JSON.stringify({ __metadata__: { format: "pt" }, ...header }));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const file = openSync(`${target}.part`, "w");
  writeSync(file, Buffer.concat([length, json]));
  tensors.forEach(([name, shape], i) => {
    const count = shape.reduce((a, b) => a * b, 1);
    const norm = name.includes("norm");
    const data = norm ? new Uint16Array(count).fill(0x3f80) : noise(count, 0.02, i);
    writeSync(file, new Uint8Array(data.buffer));
  });
  closeSync(file);
  writeFileSync(join(folder, "config.json"), JSON.stringify(config, null, 1));
  renameSync(`${target}.part`, target);
}

if (process.argv[1] && import.meta.url.endsWith(process.argv[1].split("/").pop())) {
  const [folder, config] = process.argv.slice(2);
  if (!folder) {
    console.error("usage: node bench/peers/checkpoint.mjs <folder> [config.json]");
    process.exit(2);
  }
  writeCheckpoint(folder, config ? JSON.parse(readFileSync(config, "utf8")) : CONFIG_03B);
}
