/** `ernie-compile eval`: negative log likelihood of held-out documents, the measure that a change of numerics is judged by. */

import { open } from "node:fs/promises";
import type { Command } from "commander";
import { Diagnostic } from "../diagnostics.js";
import type { Engine } from "../host/api.js";
import { fileError } from "../weights/file.js";
import { integer } from "./numbers.js";
import { withEngine } from "./package-folder.js";
import { note, printJson, printLine } from "./terminal.js";

interface EvalFlags {
  data: string;
  json?: boolean;
  threads?: number;
}

export function registerEval(program: Command): void {
  program
    .command("eval")
    .description("perplexity on held-out text")
    .argument("<package>", "folder that `build` made")
    .requiredOption("--data <file>", 'JSON Lines, a document a line: {"ids": [...], "nll"?: number}')
    .option("-t, --threads <n>", "threads of the engine", integer(1, 1024))
    .option("--json", "print one JSON object")
    .addHelpText("after", "\nExample:\n  ernie-compile eval ./ernie --data examples/models/ernie-mini-moe/held_out.jsonl")
    .action(async (folder: string, flags: EvalFlags) => {
      await withEngine(folder, flags.threads === undefined ? {} : { threads: flags.threads }, async (engine) => {
        const result = await evaluate(
          engine,
          flags.data,
          flags.json ? undefined : (done) => process.stderr.isTTY && process.stderr.write(`\r${done} documents`),
        );
        if (flags.json) printJson(result);
        else {
          if (process.stderr.isTTY) note("");
          printLine(
            `nll per token ${result.nllPerToken.toFixed(6)}, perplexity ${result.perplexity.toFixed(4)} over ${result.tokens} tokens of ${result.documents} documents`,
          );
          if (result.referenceNllPerToken !== null)
            printLine(`the file's own reference: nll per token ${result.referenceNllPerToken.toFixed(6)}`);
        }
      });
    });
}

export interface EvalResult {
  /** Natural log, mean over the predicted tokens. */
  nllPerToken: number;
  perplexity: number;
  /** Predicted tokens: every token of a document but its first. */
  tokens: number;
  documents: number;
  /** The same from the file's `nll` sums, where every document has one. */
  referenceNllPerToken: number | null;
}

interface Document {
  readonly ids: readonly number[];
  readonly nll?: number | undefined;
  /** File and line. */
  readonly place: string;
}

export async function evaluate(engine: Engine, file: string, onDocument?: (done: number) => void): Promise<EvalResult> {
  let sum = 0;
  let reference: number | null = 0;
  let tokens = 0;
  let documents = 0;
  for await (const { ids, nll, place } of readDocuments(file)) {
    sum += await documentNll(engine, ids).catch((error: unknown) => {
      // An id out of range, or more of them than the context holds.
      throw error instanceof Diagnostic && error.kind === "input" ? bad(place, error.summary, error) : error;
    });
    reference = reference === null || nll === undefined ? null : reference + nll;
    tokens += ids.length - 1;
    documents++;
    onDocument?.(documents);
  }
  if (tokens === 0) throw bad(file, `found ${documents} documents, none of two tokens or more, expected something to predict`);
  return {
    nllPerToken: sum / tokens,
    perplexity: Math.exp(sum / tokens),
    tokens,
    documents,
    referenceNllPerToken: reference === null ? null : reference / tokens,
  };
}

function bad(place: string, message: string, cause?: unknown): Diagnostic {
  return new Diagnostic({ code: "eval-data", place, message, hint: 'a line is {"ids": [token ids]}', cause });
}

async function* readDocuments(file: string): AsyncGenerator<Document> {
  const handle = await open(file).catch((error: unknown) => {
    throw fileError(error, file);
  });
  try {
    if ((await handle.stat()).isDirectory()) throw bad(file, "found a folder, expected a file of JSON Lines");
    let line = 0;
    for await (const text of handle.readLines()) {
      line++;
      if (text.trim() !== "") yield parseDocument(text, `${file}:${line}`);
    }
  } finally {
    await handle.close();
  }
}

function parseDocument(text: string, place: string): Document {
  let value: { readonly ids?: unknown; readonly nll?: unknown } | null;
  try {
    value = JSON.parse(text) as typeof value;
  } catch (cause) {
    throw bad(place, "found text that is not JSON, expected an object", cause);
  }
  const ids: unknown = value?.ids;
  const nll = value?.nll ?? undefined;
  if (!Array.isArray(ids) || ids.length === 0) throw bad(place, "found no ids, expected a list that is not empty");
  if (nll !== undefined && typeof nll !== "number") throw bad(place, `found nll ${JSON.stringify(nll).slice(0, 60)}, expected a number`);
  return { ids: ids as readonly number[], nll, place };
}

/** Sum of -log p(ids[i] | ids[..i]) over i >= 1, in f64. */
export async function documentNll(engine: Engine, ids: readonly number[]): Promise<number> {
  const { logits } = await engine.logits(ids);
  const [rows = 0, vocab = 0] = logits.shape;
  let nll = 0;
  for (let row = 0; row + 1 < rows; row++) {
    const values = (logits.data as Float32Array).subarray(row * vocab, (row + 1) * vocab);
    nll += logSumExp(values) - (values[ids[row + 1] as number] as number);
  }
  return nll;
}

function logSumExp(values: Float32Array): number {
  let max = Number.NEGATIVE_INFINITY;
  for (const value of values) max = Math.max(max, value);
  let sum = 0;
  for (const value of values) sum += Math.exp(value - max);
  return max + Math.log(sum);
}
