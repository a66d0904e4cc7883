/**
 * The compile request: what the user gave (model.json, config.json, folder or preset) and flags -> one checked CompileRequest, with every default
 * filled in but `arch: native`, which the toolchain resolves. Reads the model's config; opens no weights.
 */

import { basename, dirname, join, resolve } from "node:path";
import { Diagnostic } from "../diagnostics.js";
import { usualChunk } from "../kernels/steps.js";
import type { Target } from "../toolchain/arch.js";
import { openCheckpoint } from "../weights/checkpoint.js";
import { type ModelConfig, parseConfig, readConfig } from "./config.js";
import { isFile, isFolder, type Json, type JsonObject, readJsonObject } from "./json.js";
import { isPresetName, presetConfig, unknownInput } from "./presets.js";
import { checkRequest, LIMIT_NAMES, type LimitName, type RequestFile } from "./request-schema.js";

/** From the command line; what is given overrides the file. Paths are relative to the working directory. */
export type RequestFlags = {
  readonly [K in "target" | "arch" | "activations" | "decode" | "weights" | "tuning" | "out"]?: string | undefined;
} & {
  readonly [K in LimitName | "threads"]?: number | undefined;
} & {
  readonly deterministic?: boolean | undefined;
  /** Nothing is built, so weights need not be there. */
  readonly dryRun?: boolean | undefined;
};

export interface Limits {
  readonly maxContext: number;
  readonly maxBatch: number;
  /** Whole blocks. */
  readonly kvTokens: number;
  readonly prefillChunk: number;
  readonly blockSize: number;
}

export interface ModelSource {
  readonly kind: "folder" | "config" | "preset";
  /** For messages and reports: text from outside, never for generated source. */
  readonly name: string;
  /** Where config.json lies, with tokenizer and weights if there are any; null for a preset. */
  readonly folder: string | null;
  readonly hasWeights: boolean;
}

export interface CompileRequest {
  readonly source: ModelSource;
  readonly config: ModelConfig;
  readonly warnings: readonly Diagnostic[];
  readonly target: Target;
  /** A level, or `native`. */
  readonly arch: string;
  readonly activations: "bf16" | "f32";
  readonly deterministic: boolean;
  /** How a decode step runs on a GPU; null: as measurements say, else in launches. */
  readonly decode: "launches" | "persistent" | null;
  readonly limits: Limits;
  /** Whether the request names its prefill chunk; else that of the limits is a default, and a measured one takes its place. */
  readonly namesChunk: boolean;
  readonly weights: { readonly kind: "pack" } | { readonly kind: "synthetic"; readonly seed: number };
  /** A table of measurements, `none`, or null for what there is for the machine. */
  readonly tuning: string | null;
  readonly threads: number | null;
  readonly out: string | null;
}

const DEFAULT_MAX_CONTEXT = 8192;

export async function resolveRequest(input: string, flags: RequestFlags = {}, cwd = process.cwd()): Promise<CompileRequest> {
  const written = await readRequest(input, cwd);
  const request = merge(written, flags);
  const place = (key: string): string => placeOf(written, flags, key);
  const target = request.target ?? "cpu";
  refuseUnsupported(request, place);
  const { source, config, warnings } = await findModel(written, cwd);
  const weights = parseWeights(request.weights ?? "pack");
  if (weights.kind === "pack" && !source.hasWeights && !flags.dryRun) throw await noWeights(source, place("weights"));
  // Paths in the file start at its folder, flags at the working directory.
  const pathOf = (key: "tuning" | "out"): string | null => {
    const value = request[key] ?? null;
    // A word, not a file: ./none is one.
    if (key === "tuning" && value === "none") return value;
    return value === null ? null : resolve(flags[key] === undefined ? (written.folder ?? cwd) : cwd, value);
  };
  return Object.freeze({
    source,
    config,
    warnings,
    target,
    arch: request.arch ?? "native",
    activations: request.activations ?? "bf16",
    deterministic: request.deterministic ?? false,
    decode: request.decode ?? null,
    limits: resolveLimits(request, config, place, target),
    namesChunk: request.limits?.prefillChunk !== undefined,
    weights,
    tuning: pathOf("tuning"),
    threads: request.threads ?? null,
    out: pathOf("out"),
  });
}

interface WrittenRequest {
  readonly request: RequestFile;
  /** The model.json, or null if the input was a model. */
  readonly file: string | null;
  readonly folder: string | null;
}

/** An input that is not a model.json is a request with nothing but a model. */
async function readRequest(input: string, cwd: string): Promise<WrittenRequest> {
  const path = resolve(cwd, input);
  const plain: WrittenRequest = { request: { model: input }, file: null, folder: null };
  if (input === "")
    throw new Diagnostic({
      code: "input-not-found",
      message: "found an empty name, expected a model",
      place: "<input>",
      hint: "see ernie-compile --help",
    });
  if (!(await isFile(path))) return plain;
  const object = await readJsonObject(path);
  if (!looksLikeRequest(object, path)) return plain;
  return { request: checkRequest(object, (key) => (key === "" ? path : `${path}: ${key}`)), file: path, folder: dirname(path) };
}

/** By what it says; the file's name decides only where the keys don't. */
function looksLikeRequest(object: JsonObject, path: string): boolean {
  if (["model_type", "architectures", "hidden_size"].some((key) => object[key] !== undefined)) return false;
  return object.model !== undefined || basename(path) !== "config.json";
}

/** Flags go through the same check as the file, so that both know the same values. */
function merge({ request }: WrittenRequest, flags: RequestFlags): RequestFile {
  const { dryRun: _, ...given } = flags;
  const limits: { [key: string]: Json } = {};
  const top: { [key: string]: Json } = { model: request.model };
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined) continue;
    if ((LIMIT_NAMES as readonly string[]).includes(key)) limits[key] = value;
    else top[key] = value;
  }
  const checked = checkRequest({ ...top, limits }, (path) => flagOf(path));
  return { ...request, ...checked, limits: { ...request.limits, ...checked.limits } };
}

function flagOf(path: string): string {
  const key = path.split(".").at(-1) ?? "";
  return key === "out" ? "-o" : `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

function placeOf({ file }: WrittenRequest, flags: RequestFlags, path: string): string {
  const key = (path.split(".").at(-1) ?? "") as keyof RequestFlags;
  return flags[key] !== undefined || file === null ? flagOf(path) : `${file}: ${path}`;
}

function refuseUnsupported(
  { target, activations, deterministic, decode, quantization, adapters }: RequestFile,
  place: (key: string) => string,
): void {
  const refuse = (key: string, message: string, hint: string): never => {
    throw new Diagnostic({ code: `request-${key}-unsupported`, kind: "unsupported", message, place: place(key), hint });
  };
  if (target === "cuda" && activations === "f32")
    refuse("activations", "found f32 with target cuda, expected bf16", "leave activations out: GPU kernels read bf16, and add in f32");
  if (decode === "persistent" && target !== "cuda")
    refuse(
      "decode",
      "found persistent, expected launches for a CPU",
      "leave decode out: on a CPU a step is one call of each thread anyway",
    );
  if (decode === "persistent" && deterministic)
    refuse(
      "decode",
      "found persistent with deterministic, expected one of them",
      "leave one out: a step in one launch sums in an order of its own",
    );
  if (quantization !== undefined && quantization !== null)
    refuse("quantization", "found a quantization, expected null", "leave it out: weights stay bf16");
  if (adapters !== undefined && adapters.length > 0)
    refuse("adapters", `found ${adapters.length} adapters, expected none`, "merge them into the weights first");
}

interface FoundModel {
  readonly source: ModelSource;
  readonly config: ModelConfig;
  readonly warnings: readonly Diagnostic[];
}

async function findModel({ request, file, folder }: WrittenRequest, cwd: string): Promise<FoundModel> {
  const name = request.model;
  const path = resolve(folder ?? cwd, name);
  if (await isFolder(path)) {
    const configPath = join(path, "config.json");
    if (!(await isFile(configPath))) throw await noConfig(path);
    return { source: { kind: "folder", name, folder: path, hasWeights: await hasWeights(path) }, ...(await readConfig(configPath)) };
  }
  if (await isFile(path)) {
    // A bare config.json beside weights is the same model as its folder.
    const beside = dirname(path);
    return { source: { kind: "config", name, folder: beside, hasWeights: await hasWeights(beside) }, ...(await readConfig(path)) };
  }
  if (!isPresetName(name)) throw unknownInput(name, file === null ? undefined : `${file}: model`);
  return { source: { kind: "preset", name, folder: null, hasWeights: false }, ...parseConfig(presetConfig(name), `preset ${name}`) };
}

async function noConfig(folder: string): Promise<Diagnostic> {
  const hasRequest = await isFile(join(folder, "model.json"));
  return new Diagnostic({
    code: "input-no-config",
    message: "found a folder without config.json, expected a model folder",
    place: folder,
    hint: hasRequest
      ? `did you mean ${join(folder, "model.json")}?`
      : "a model folder holds config.json, safetensors files and tokenizer.model",
  });
}

async function hasWeights(folder: string): Promise<boolean> {
  const found = await Promise.all(["model.safetensors", "model.safetensors.index.json"].map((name) => isFile(join(folder, name))));
  return found.includes(true);
}

async function noWeights(source: ModelSource, place: string): Promise<Diagnostic> {
  // What opens checkpoints can say what the folder holds instead.
  if (source.kind === "folder" && source.folder !== null) await openCheckpoint(source.folder);
  return new Diagnostic({
    code: "weights-missing",
    message: `found no weights with the ${source.kind} ${source.name}, expected safetensors files`,
    place,
    hint: "use --weights synthetic:1 for random weights, or --dry-run to compile without any",
  });
}

function parseWeights(text: string): CompileRequest["weights"] {
  const seed = /^synthetic:([0-9]+)$/.exec(text)?.[1];
  return seed === undefined ? { kind: "pack" } : { kind: "synthetic", seed: Number(seed) };
}

/** A GPU reads its cache in longer runs. */
const DEFAULT_SIZES = {
  cpu: { blockSize: 32, maxBatch: 8 },
  cuda: { blockSize: 64, maxBatch: 64 },
} as const;

function resolveLimits({ limits = {} }: RequestFile, config: ModelConfig, place: (key: string) => string, target: Target): Limits {
  const sizes = { ...DEFAULT_SIZES[target], prefillChunk: usualChunk(target, config.moe !== null) };
  const { blockSize, maxBatch, prefillChunk } = { ...sizes, ...limits };
  const maxContext = limits.maxContext ?? Math.min(config.maxPositions, DEFAULT_MAX_CONTEXT, limits.kvTokens ?? DEFAULT_MAX_CONTEXT);
  if (maxContext > config.maxPositions) {
    throw new Diagnostic({
      code: "request-context-too-long",
      message: `found maxContext ${maxContext}, expected at most ${config.maxPositions}, the model's max_position_embeddings`,
      place: place("limits.maxContext"),
      hint: "ask for less: the model was not trained beyond",
    });
  }
  const kvTokens = limits.kvTokens ?? maxContext;
  if (kvTokens < maxContext) {
    throw new Diagnostic({
      code: "request-kv-too-small",
      message: `found kvTokens ${kvTokens}, expected at least maxContext ${maxContext}: the longest sequence must fit`,
      place: place("limits.kvTokens"),
      hint: "raise kvTokens or lower maxContext",
    });
  }
  return { maxContext, maxBatch, kvTokens: Math.ceil(kvTokens / blockSize) * blockSize, prefillChunk, blockSize };
}
