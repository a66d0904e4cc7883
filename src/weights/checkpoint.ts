/**
 * The weights of a model folder: one `model.safetensors`, or shards named by `model.safetensors.index.json`. Only
 * headers are read. What the names and shapes mean is the frontend's business (src/frontend/weights.ts).
 */

import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { Diagnostic } from "../diagnostics.js";
import { fileError, readFully, withFile } from "./file.js";
import { MAX_HEADER_BYTES, readSafetensorsHeader, type SafetensorsFile } from "./safetensors.js";
import { isPadding } from "./safetensors-write.js";
import { isStrictObject, JsonError, parseStrictJson, type StrictJson } from "./strict-json.js";
import { quoteName, type TensorEntry } from "./tensor-type.js";

const SINGLE = "model.safetensors";
const INDEX = "model.safetensors.index.json";

const MISMATCH = "the index and the shards may be of different downloads: fetch them again";

export interface CheckpointTensor extends TensorEntry {
  /** Into `Checkpoint.files`. */
  readonly file: number;
}

export interface Checkpoint {
  readonly folder: string;
  readonly files: readonly SafetensorsFile[];
  /** By name, in the order of files and of bytes within them. */
  readonly tensors: ReadonlyMap<string, CheckpointTensor>;
}

/** Opens a model folder's weights, or one safetensors file. */
export async function openCheckpoint(path: string): Promise<Checkpoint> {
  const info = await stat(path).catch((error: unknown) => {
    throw fileError(error, path);
  });
  if (!info.isDirectory()) return collect(path, [await readSafetensorsHeader(path)]);
  const [hasIndex, hasSingle] = await Promise.all([exists(join(path, INDEX)), exists(join(path, SINGLE))]);
  if (hasIndex) return openShards(path, hasSingle);
  if (hasSingle) return collect(path, [await readSafetensorsHeader(join(path, SINGLE))]);
  throw await noWeights(path);
}

/** Takes the folder's shards as the index lists them, and holds index and headers to each other in both directions. */
async function openShards(folder: string, hasSingle: boolean): Promise<Checkpoint> {
  const place = join(folder, INDEX);
  const weightMap = await readWeightMap(place);
  const shards = [...new Set(weightMap.values())].sort();
  if (hasSingle && !shards.includes(SINGLE)) {
    throw new Diagnostic({
      code: "weights-ambiguous",
      message: `found ${SINGLE} and an index that does not list it, expected one set of weights`,
      place,
      hint: "move away the one that is not meant",
    });
  }
  const files: SafetensorsFile[] = [];
  for (const shard of shards) {
    if (!(await exists(join(folder, shard)))) {
      const message = `found no file ${quoteName(shard)}, which the index lists`;
      throw new Diagnostic({
        code: "weights-shard-missing",
        message,
        place,
        hint: "the download may be incomplete: fetch the missing file",
      });
    }
    files.push(await readSafetensorsHeader(join(folder, shard)));
  }
  const checkpoint = collect(folder, files);
  for (const [name, shard] of weightMap) {
    const tensor = checkpoint.tensors.get(name);
    const found = tensor && shards[tensor.file];
    if (found === shard) continue;
    const message = found
      ? `found it in ${quoteName(found)}, expected it in ${quoteName(shard)}`
      : `found no such tensor in ${quoteName(shard)}`;
    throw new Diagnostic({ code: "weights-index-mismatch", message, place: `${place}: ${quoteName(name)}`, hint: MISMATCH });
  }
  for (const { name, file } of checkpoint.tensors.values()) {
    if (weightMap.has(name)) continue;
    const message = `found a tensor in ${quoteName(shards[file] as string)} that the index does not list`;
    throw new Diagnostic({ code: "weights-index-mismatch", message, place: `${place}: ${quoteName(name)}`, hint: MISMATCH });
  }
  return checkpoint;
}

async function readWeightMap(place: string): Promise<ReadonlyMap<string, string>> {
  const refuse = (message: string, where = place): Diagnostic =>
    new Diagnostic({ code: "weights-bad-index", message, place: where, hint: MISMATCH });
  const root = await readJson(place, refuse);
  const map = isStrictObject(root) ? root.get("weight_map") : undefined;
  if (!isStrictObject(map)) throw refuse("found no object weight_map, expected {name: file}");
  if (map.size === 0) throw refuse("found an empty weight_map, expected at least one tensor");
  const checked = new Map<string, string>();
  for (const [name, shard] of map) {
    const where = `${place}: ${quoteName(name)}`;
    if (typeof shard !== "string") throw refuse("found a file name that is not text", where);
    if (!isPlainShardName(shard)) {
      const message = `found the file name ${quoteName(shard)}, expected a plain name ending in .safetensors, inside the folder`;
      throw new Diagnostic({ code: "weights-shard-name", message, place: where, hint: MISMATCH });
    }
    checked.set(name, shard);
  }
  return checked;
}

async function readJson(place: string, refuse: (message: string) => Diagnostic): Promise<StrictJson> {
  const text = await withFile(place, async (file) => {
    if (file.bytes > MAX_HEADER_BYTES) throw refuse(`found ${file.bytes} bytes, expected at most ${MAX_HEADER_BYTES}`);
    const bytes = new Uint8Array(file.bytes);
    await readFully(file, bytes, 0);
    return bytes;
  });
  try {
    return parseStrictJson(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(text));
  } catch (error) {
    if (!(error instanceof JsonError)) throw refuse("found bytes that are not UTF-8");
    if (error.duplicateKey !== undefined) throw refuse(`found the key ${quoteName(error.duplicateKey)} twice, expected every key once`);
    throw refuse(`found text that is not JSON: ${error.message}, at character ${error.offset}`);
  }
}

/** Nothing that leaves the folder, on any system: no separator, no NUL, no drive, not hidden. */
function isPlainShardName(name: string): boolean {
  return name.endsWith(".safetensors") && !name.startsWith(".") && !/[/\\:\u0000-\u001f]/.test(name);
}

function collect(folder: string, files: readonly SafetensorsFile[]): Checkpoint {
  const tensors = new Map<string, CheckpointTensor>();
  for (const [file, { path, tensors: entries }] of files.entries()) {
    for (const entry of entries.values()) {
      if (isPadding(entry.name)) continue;
      const other = tensors.get(entry.name);
      if (other) {
        const message = `found a tensor that ${files[other.file]?.path} also holds, expected every name once`;
        throw new Diagnostic({ code: "weights-duplicate", message, place: `${path}: ${quoteName(entry.name)}`, hint: MISMATCH });
      }
      tensors.set(entry.name, Object.freeze({ ...entry, file }));
    }
  }
  return { folder, files, tensors };
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

async function noWeights(folder: string): Promise<Diagnostic> {
  const others = (await readdir(folder)).filter((name) => /\.(bin|pt|pth|pdparams|gguf|safetensors)$/.test(name)).sort();
  const seen =
    others.length > 0 ? `; there is ${quoteName(others[0] as string)}${others.length > 1 ? ` and ${others.length - 1} more` : ""}` : "";
  return new Diagnostic({
    code: "weights-missing",
    message: `found neither ${SINGLE} nor ${INDEX}${seen}`,
    place: folder,
    hint: "convert or download the weights as safetensors, or compile without them: --weights synthetic:1",
  });
}
