/** `ernie-compile logits`: a forward pass over given ids, written as safetensors under the names of the goldens. */

import { readFileSync } from "node:fs";
import type { Command } from "commander";
import { Diagnostic } from "../diagnostics.js";
import type { Engine, NamedTensor } from "../host/api.js";
import { fileError } from "../weights/file.js";
import { type TensorToWrite, writeSafetensors } from "../weights/safetensors-write.js";
import { interruptSignal } from "./interrupt.js";
import { integer, integerList } from "./numbers.js";
import { withEngine } from "./package-folder.js";
import { note } from "./terminal.js";

interface LogitsFlags {
  ids?: number[];
  idsFile?: string;
  greedy?: number;
  chunk?: number;
  trace?: boolean;
  out: string;
  threads?: number;
}

export function registerLogits(program: Command): void {
  program
    .command("logits")
    .description("run a forward pass over token ids and write the logits")
    .argument("<package>", "folder that `build` made")
    .option("--ids <ids>", "token ids, separated by commas", integerList(0))
    .option("--ids-file <file>", "JSON file with an array of token ids")
    .option("--greedy <n>", "also continue greedily for n tokens", integer(1))
    .option("--chunk <n>", "tokens a step; 1 goes through decode", integer(1))
    .option("--trace", "also write hidden states and router tensors")
    .option("-t, --threads <n>", "threads of the engine", integer(1, 1024))
    .requiredOption("-o, --out <file>", "safetensors file to write")
    .addHelpText("after", "\nExample:\n  ernie-compile logits ./ernie --ids 1,2,3 --greedy 8 --trace -o out.safetensors")
    .action(async (folder: string, flags: LogitsFlags) => {
      const ids = idsOf(flags);
      await withEngine(folder, flags.threads === undefined ? {} : { threads: flags.threads }, async (engine) => {
        const tensors = await forward(engine, ids, flags);
        // So that Ctrl-C leaves no half of it.
        interruptSignal();
        await writeSafetensors(flags.out, tensors);
        note(`wrote ${tensors.map((tensor) => tensor.name).join(", ")} to ${flags.out}`);
      });
    });
}

function idsOf({ ids, idsFile }: LogitsFlags): number[] {
  if ((ids === undefined) === (idsFile === undefined)) {
    throw new Diagnostic({
      code: "usage",
      message: ids ? "found both --ids and --ids-file, expected one" : "found neither --ids nor --ids-file, expected one",
      hint: "--ids 1,2,3 or --ids-file ids.json",
    });
  }
  if (ids) return ids;
  const file = idsFile as string;
  const refuse = (found: string, cause?: unknown) =>
    new Diagnostic({
      code: "ids-file",
      place: file,
      message: `found ${found}, expected a JSON array of token ids`,
      hint: "[1, 2, 3]",
      cause,
    });
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw fileError(error, file);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw refuse("text that is not JSON", error);
  }
  if (!Array.isArray(value)) throw refuse("something else");
  if (value.length === 0) throw refuse("an empty array");
  const wrong = value.findIndex((id) => !Number.isInteger(id));
  if (wrong >= 0) throw refuse(`${JSON.stringify(value[wrong]).slice(0, 60)} at [${wrong}]`);
  return value as number[];
}

async function forward(engine: Engine, ids: readonly number[], flags: LogitsFlags): Promise<TensorToWrite[]> {
  const options = { ...(flags.chunk === undefined ? {} : { chunk: flags.chunk }), trace: flags.trace ?? false, greedy: flags.greedy ?? 0 };
  const result = await engine.logits(ids, options);
  const tensors = [named("logits", result.logits), ...Object.entries(result.trace).map(([name, tensor]) => named(name, tensor))];
  if (result.greedy) tensors.push(named("greedy_ids", result.greedy.ids), named("greedy_logits", result.greedy.logits));
  return tensors;
}

/** Ids are i64 in files, as in the goldens. */
function named(name: string, { data, shape }: NamedTensor): TensorToWrite {
  return data instanceof Float32Array
    ? { name, dtype: "F32", shape, data }
    : { name, dtype: "I64", shape, data: BigInt64Array.from(data, BigInt) };
}
