/** `ernie-compile eval`: negative log likelihood of held-out documents, the measure that a change of numerics is judged by. */

import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import type { Command } from "commander";
import { Diagnostic } from "../diagnostics.js";
import type { Engine } from "../host/api.js";
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
  ids: number[];
  nll?: number;
}

export async function evaluate(engine: Engine, file: string, onDocument?: (done: number) => void): Promise<EvalResult> {
  let sum = 0;
  let reference: number | null = 0;
  let tokens = 0;
  let documents = 0;
  for await (const { ids, nll } of readDocuments(file)) {
    sum += await documentNll(engine, ids);
    reference = reference === null || nll === undefined ? null : reference + nll;
    tokens += ids.length - 1;
    onDocument?.(++documents);
  }
  if (tokens === 0)
    throw new Diagnostic({ code: "eval-data", place: file, message: "no document has two tokens or more: nothing to predict" });
  return {
    nllPerToken: sum / tokens,
    perplexity: Math.exp(sum / tokens),
    tokens,
    documents,
    referenceNllPerToken: reference === null ? null : reference / tokens,
  };
}

async function* readDocuments(file: string): AsyncGenerator<Document> {
  let line = 0;
  for await (const text of createInterface({ input: createReadStream(file), crlfDelay: Number.POSITIVE_INFINITY })) {
    line++;
    if (text.trim() === "") continue;
    const bad = (message: string) =>
      new Diagnostic({ code: "eval-data", place: `${file}:${line}`, message, hint: 'a line is {"ids": [token ids]}' });
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      throw bad("not JSON");
    }
    if (typeof value !== "object" || value === null || !("ids" in value) || !Array.isArray(value.ids) || value.ids.length === 0) {
      throw bad("expected an object with a list of ids that is not empty");
    }
    yield value as Document;
  }
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
