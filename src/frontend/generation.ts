/**
 * What a package needs beside the weights to speak: text.json (format: runtime/src/tokenizer.hpp), which says what tokenizer.model doesn't, and
 * chat.json, which names the chat template. From generation_config.json, the tokenizer's files and the config.
 */

import { join } from "node:path";
import { Diagnostic } from "../diagnostics.js";
import { type ChatForm, detectChatForm, readChatTemplate } from "./chat-template.js";
import type { ModelConfig } from "./config.js";
import { Fields } from "./fields.js";
import { isFile, readOptionalJsonObject } from "./json.js";
import { type Piece, readPieces } from "./sentencepiece-pieces.js";
import { type AddedToken, readSpecialTokens } from "./special-tokens.js";

/** text.json of a package. */
export interface TextJson {
  readonly format: 1;
  readonly vocab_size: number;
  readonly added: readonly AddedToken[];
  readonly specials: readonly string[];
  readonly stop_ids: readonly number[];
  readonly generation: SamplingDefaults;
}

export interface SamplingDefaults {
  readonly do_sample?: boolean;
  readonly temperature?: number;
  readonly top_p?: number;
  readonly top_k?: number;
  readonly min_p?: number;
  readonly repetition_penalty?: number;
  readonly frequency_penalty?: number;
  readonly presence_penalty?: number;
}

export interface NamedToken {
  readonly id: number;
  readonly content: string;
}

export interface TextAssets {
  readonly text: TextJson;
  /** null where the folder has no tokenizer: such a package takes and gives ids. */
  readonly chat: ChatForm | null;
  /** Path of the file to copy, or null. */
  readonly tokenizerModel: string | null;
  /** By the names that the folder gives them (`bos_token`): for the bindings and reports. */
  readonly named: Readonly<Record<string, NamedToken>>;
  readonly warnings: readonly Diagnostic[];
}

/** Ends a turn in the family's templates; the first is what the model closes earlier turns with, the second the Thinking form's. */
const TURN_ENDS = ["<|end_of_sentence|>", "<|im_end|>"];

/** `folder` is null for a preset: nothing but the config's ids is known then. */
export async function readTextAssets(folder: string | null, config: ModelConfig): Promise<TextAssets> {
  const generation = folder === null ? undefined : await readOptionalJsonObject(join(folder, "generation_config.json"));
  const fields = new Fields(generation ?? {}, folder === null ? "" : join(folder, "generation_config.json"));
  const sampling = generation ? readSampling(fields) : {};
  const eos = [...(fields.ints("eos_token_id", { min: 0, max: config.vocabSize - 1 }) ?? []), ...config.eosIds];
  const bare = { format: 1, vocab_size: config.vocabSize, added: [], specials: [], generation: sampling } as const;
  const tokenizerModel = folder === null ? null : join(folder, "tokenizer.model");
  if (folder === null || tokenizerModel === null || !(await isFile(tokenizerModel))) {
    const warnings = folder === null ? [] : [await noTokenizer(folder)];
    return { text: { ...bare, stop_ids: unique(eos) }, chat: null, tokenizerModel: null, named: {}, warnings };
  }
  const pieces = await readPieces(tokenizerModel);
  checkSize(pieces, config.vocabSize, tokenizerModel);
  const { added, specials, named, idOf } = await readSpecialTokens(folder, pieces, config.vocabSize);
  const ends = TURN_ENDS.map(idOf).filter((id) => id !== undefined);
  const template = await readChatTemplate(folder);
  const warnings: Diagnostic[] = [];
  const chat = await detectChatForm(template, {
    variables: named,
    // All that a template token can be: user text that spells one must be marked before a template is rendered.
    specials: [...new Set([...specials, ...added.map(({ content }) => content), ...controls(pieces)])],
    thinks: idOf("<|im_start|>") !== undefined && idOf("<think>") !== undefined,
    warn: (warning) => warnings.push(warning),
  });
  const known = Object.entries(named).flatMap(([key, content]): [string, NamedToken][] => {
    const id = idOf(content);
    return id === undefined ? [] : [[key, { id, content }]];
  });
  return {
    text: { ...bare, added, specials, stop_ids: unique([...eos, ...ends]) },
    chat,
    tokenizerModel,
    named: Object.fromEntries(known),
    warnings,
  };
}

/**
 * As `generate()` of transformers reads the file: without `do_sample: true` the choice is greedy, whatever temperature it states. What is left out is
 * left to the engine's defaults.
 */
function readSampling(fields: Fields): SamplingDefaults {
  const sample = fields.boolean("do_sample") === true;
  const stated = {
    temperature: sample ? fields.number("temperature", { min: 0, max: 100 }) : 0,
    top_p: fields.number("top_p", { min: 0, max: 1, open: true }),
    top_k: fields.int("top_k", { min: 0, max: 2 ** 24 }),
    min_p: fields.number("min_p", { min: 0, max: 1 }),
    repetition_penalty: fields.number("repetition_penalty", { min: 0, max: 100, open: true }),
    frequency_penalty: fields.number("frequency_penalty", { min: -100, max: 100 }),
    presence_penalty: fields.number("presence_penalty", { min: -100, max: 100 }),
  };
  const given = Object.entries(stated).filter(([, value]) => value !== undefined);
  return { do_sample: sample, ...Object.fromEntries(given) };
}

function checkSize(pieces: readonly Piece[], vocabSize: number, place: string): void {
  if (pieces.length <= vocabSize) return;
  throw new Diagnostic({
    code: "tokenizer-too-large",
    message: `found ${pieces.length} pieces, expected at most ${vocabSize}, the model's vocab_size`,
    place,
    hint: "config.json and the tokenizer may be of different models",
  });
}

async function noTokenizer(folder: string): Promise<Diagnostic> {
  const fast = await isFile(join(folder, "tokenizer.json"));
  return new Diagnostic({
    code: "tokenizer-missing",
    message: `found no tokenizer.model${fast ? ", only tokenizer.json, which is not read" : ""}; the package will take and give token ids alone`,
    place: folder,
    hint: "add the tokenizer.model that belongs to the model",
  });
}

function controls(pieces: readonly Piece[]): string[] {
  return pieces.filter(({ type }) => type === "control" || type === "unknown").map(({ text }) => text);
}

function unique(ids: readonly number[]): number[] {
  return [...new Set(ids)].sort((a, b) => a - b);
}
