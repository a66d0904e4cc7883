/** A golden's checkpoint written in the family's other forms, with its data: what a loader must take for the same model. */

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openCheckpoint } from "../../src/weights/checkpoint.js";
import { roundToBf16, roundToF16 } from "../../src/weights/half.js";
import { readFloats } from "../../src/weights/read-tensor.js";
import { type TensorToWrite, writeSafetensors } from "../../src/weights/safetensors-write.js";
import { path, readJson } from "./support.js";

export const FORMS = ["paddle", "paddle-u16", "pt-fused", "stacked", "bare", "f32"] as const;
export type Form = (typeof FORMS)[number];

interface Matrix {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** Writes the golden `name` in `form` to `folder`. */
export async function respell(name: string, form: Form, folder: string): Promise<void> {
  const checkpoint = await openCheckpoint(path(`test/goldens/${name}`));
  let tensors = new Map<string, Matrix>();
  for (const [tensor, { file }] of checkpoint.tensors) {
    const { shape, data } = await readFloats(checkpoint.files[file] ?? "", tensor);
    tensors.set(tensor, { shape, data });
  }
  if (form === "stacked") tensors = stacked(tensors);
  if (form.startsWith("paddle") || form === "pt-fused") tensors = fused(tensors);
  if (form.startsWith("paddle")) tensors = turned(tensors);
  const prefix = form.startsWith("paddle") ? "ernie." : form === "bare" ? "" : "model.";
  const written = [...tensors].map(([tensor, matrix]) => toWrite(tensor.replace(/^model\./, prefix), matrix, form));
  mkdirSync(folder, { recursive: true });
  await writeSafetensors(join(folder, "model.safetensors"), written);
  const config = readJson(`test/goldens/${name}/config.json`);
  if (form.startsWith("paddle")) delete config.transformers_version;
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
}

function toWrite(name: string, { shape, data }: Matrix, form: Form): TensorToWrite {
  if (form === "f32" || isRouter(name)) return { name, dtype: "F32", shape, data };
  if (form === "bare" && shape.length === 1) return { name, dtype: "F16", shape, data: roundToF16(data) };
  return { name, dtype: form === "paddle-u16" ? "U16" : "BF16", shape, data: roundToBf16(data) };
}

function isRouter(name: string): boolean {
  return name.endsWith(".gate.weight") || name.endsWith("e_score_correction_bias");
}

/** q|k|v and gate|up joined along their rows. */
function fused(tensors: ReadonlyMap<string, Matrix>): Map<string, Matrix> {
  const groups = new Map<string, Matrix[]>();
  const rank = (name: string): number => ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"].findIndex((part) => name.includes(part));
  for (const [name, matrix] of [...tensors].sort(([a], [b]) => rank(a) - rank(b))) {
    const target = name.replace(/\.[qkv]_proj\./, ".qkv_proj.").replace(/\.(gate|up)_proj\./, ".up_gate_proj.");
    groups.set(target, [...(groups.get(target) ?? []), matrix]);
  }
  return new Map([...groups].map(([name, parts]) => [name, joinRows(parts)]));
}

function joinRows(parts: readonly Matrix[]): Matrix {
  const [first] = parts as readonly [Matrix];
  const data = Float32Array.from(parts.flatMap((part) => Array.from(part.data)));
  return { shape: [parts.reduce((sum, { shape }) => sum + (shape[0] as number), 0), ...first.shape.slice(1)], data };
}

function turned(tensors: ReadonlyMap<string, Matrix>): Map<string, Matrix> {
  const stays = (name: string): boolean => name.includes("embed_tokens") || name.endsWith("e_score_correction_bias");
  return new Map([...tensors].map(([name, matrix]) => [name, matrix.shape.length === 2 && !stays(name) ? transpose(matrix) : matrix]));
}

function transpose({ shape, data }: Matrix): Matrix {
  const [rows, cols] = shape as readonly [number, number];
  return { shape: [cols, rows], data: data.map((_, i) => data[(i % rows) * cols + Math.floor(i / rows)] as number) };
}

/** transformers 5's own form. */
function stacked(tensors: ReadonlyMap<string, Matrix>): Map<string, Matrix> {
  const out = new Map<string, Matrix>();
  const experts = new Map<string, Matrix[]>();
  for (const [name, matrix] of tensors) {
    const match = /^(.*\.experts)\.(\d+)\.(\w+)_proj\.weight$/.exec(name);
    if (!match) out.set(name.replace(".mlp.moe_statics.", ".mlp.gate.moe_statics."), matrix);
    else
      experts.set(`${match[1]} ${match[3]}`, Object.assign(experts.get(`${match[1]} ${match[3]}`) ?? [], { [Number(match[2])]: matrix }));
  }
  const stack = (parts: readonly Matrix[]): Matrix => ({ ...joinRows(parts), shape: [parts.length, ...(parts[0]?.shape ?? [])] });
  for (const [key, ups] of experts) {
    const [block, part] = key.split(" ") as [string, string];
    if (part === "down") out.set(`${block}.down_proj`, stack(ups));
    if (part !== "up") continue;
    const gates = experts.get(`${block} gate`) ?? [];
    out.set(`${block}.gate_up_proj`, stack(gates.map((gate, e) => joinRows([gate, ups[e] as Matrix]))));
  }
  return out;
}
