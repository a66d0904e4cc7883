/** `ernie-compile run`: continues a text, or answers it through the chat template with `--chat`. */

import type { Command } from "commander";
import type { Engine, Finish, GenerateOptions, Piece } from "../host/api.js";
import { interruptSignal } from "./interrupt.js";
import { decimal, integer } from "./numbers.js";
import { withEngine } from "./package-folder.js";
import { dim, formatMs, note, printJson } from "./terminal.js";

export interface SamplingFlags {
  maxTokens?: number;
  temperature?: number;
  topP?: number;
  topK?: number;
  minP?: number;
  seed?: number;
  threads?: number;
}

interface RunFlags extends SamplingFlags {
  prompt: string;
  raw?: boolean;
  json?: boolean;
}

export function addSamplingFlags(command: Command): Command {
  return command
    .option("--max-tokens <n>", "most tokens to generate", integer(1))
    .option("--temperature <t>", "0 is greedy (default: the model's)", decimal(0, 100))
    .option("--top-p <p>", "nucleus sampling", decimal(0, 1))
    .option("--top-k <k>", "keep the k most probable tokens", integer(0))
    .option("--min-p <p>", "drop tokens below this share of the best one's probability", decimal(0, 1))
    .option("--seed <s>", "same seed, same text", integer(0))
    .option("-t, --threads <n>", "threads of the engine", integer(1, 1024));
}

export function samplingOptions({ maxTokens, temperature, topP, topK, minP, seed }: SamplingFlags): GenerateOptions {
  const given = { maxTokens, temperature, topP, topK, minP, seed };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

export function registerRun(program: Command): void {
  const command = program
    .command("run")
    .description("answer a prompt with a compiled package")
    .argument("<package>", "folder that `build` made")
    .requiredOption("-p, --prompt <text>", "what to say to the model")
    .option("--raw", "continue the text as it is, without the chat template")
    .option("--json", "print one JSON object")
    .addHelpText("after", '\nExample:\n  ernie-compile run ./ernie -p "背誦李白《靜夜思》" --temperature 0');
  addSamplingFlags(command).action(async (folder: string, flags: RunFlags) => {
    await withEngine(folder, flags.threads === undefined ? {} : { threads: flags.threads }, async (engine) => {
      const start = performance.now();
      const { text, ids, finish } = await collect(pieces(engine, flags), flags.json ? undefined : (piece) => process.stdout.write(piece));
      if (flags.json) {
        printJson({ text, ids, finishReason: finish.finishReason, usage: finish.usage, timings: finish.timings });
        return;
      }
      process.stdout.write("\n");
      note(dim(summary(finish, performance.now() - start)));
    });
  });
}

function pieces(engine: Engine, flags: RunFlags): AsyncIterable<Piece | Finish> {
  const options = { ...samplingOptions(flags), signal: interruptSignal() };
  return flags.raw ? engine.generate(flags.prompt, options) : engine.chat([{ role: "user", content: flags.prompt }], options);
}

export async function collect(
  stream: AsyncIterable<Piece | Finish>,
  onText?: (text: string) => void,
): Promise<{ text: string; ids: number[]; finish: Finish }> {
  let text = "";
  const ids: number[] = [];
  let finish: Finish | undefined;
  for await (const piece of stream) {
    text += piece.text;
    ids.push(...piece.ids);
    onText?.(piece.text);
    if ("finishReason" in piece) finish = piece;
  }
  return { text, ids, finish: finish as Finish };
}

export function summary({ usage, timings, finishReason }: Finish, wallMs: number): string {
  const decoded = Math.max(0, usage.completionTokens - 1);
  const rate = decoded > 0 && timings.decode > 0 ? `, ${((1000 * decoded) / timings.decode).toFixed(1)} tokens/s` : "";
  const cached = usage.cachedTokens > 0 ? ` (${usage.cachedTokens} cached)` : "";
  return `${usage.promptTokens} prompt tokens${cached} in ${formatMs(timings.prefill)}, ${usage.completionTokens} generated${rate}, ${formatMs(wallMs)} in all, ended by ${finishReason}`;
}
