/** `ernie-compile inspect`: what a model needs, or what a package holds. */

import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Command } from "commander";
import { countModel, kvBytesPerToken, tokensThatFit } from "../frontend/count.js";
import { loadModel } from "../frontend/load-model.js";
import { resolveRequest } from "../frontend/model-json.js";
import { type Manifest, readManifest } from "./manifest.js";
import { decimal } from "./numbers.js";
import { formatBytes, note, printJson, printLine } from "./terminal.js";

interface InspectFlags {
  memory?: number;
  json?: boolean;
}

const BATCHES = [1, 2, 4, 8, 16, 32, 64];

export function registerInspect(program: Command): void {
  program
    .command("inspect")
    .description("parameters and memory of a model, or kernels, sizes and plan of a package")
    .argument("<input>", "anything that `build` takes, or a package")
    .option("--memory <GB>", "also say which contexts and batches fit into so much memory", decimal(0.001, 1e6))
    .option("--json", "print one JSON object")
    .addHelpText("after", "\nExamples:\n  ernie-compile inspect ernie-4.5-21b-a3b --memory 64\n  ernie-compile inspect ./ernie")
    .action(async (input: string, flags: InspectFlags) => {
      if (existsSync(join(resolve(input), "manifest.json"))) showPackage(await readManifest(resolve(input)), flags);
      else await showModel(input, flags);
    });
}

async function showModel(input: string, { memory, json }: InspectFlags): Promise<void> {
  const request = await resolveRequest(input, { dryRun: true });
  const { weights, unused, warnings } = await loadModel(request);
  const { config } = request;
  const count = countModel(config, weights.tied);
  const kv = kvBytesPerToken(config);
  const fits = memory === undefined ? [] : whatFits(tokensThatFit(config, memory * 1e9, { tied: weights.tied }), config.maxPositions);
  if (json) {
    const { kind, layers, hiddenSize, heads, kvHeads, headDim, vocabSize, maxPositions } = config;
    printJson({
      kind,
      layers,
      hiddenSize,
      heads,
      kvHeads,
      headDim,
      vocabSize,
      maxPositions,
      ...count,
      kvBytesPerToken: kv,
      fits,
      unused,
      warnings: warnings.map((warning) => warning.toJSON()),
    });
    return;
  }
  for (const warning of warnings) note(warning.message);
  printLine(
    `${config.kind === "moe" ? "mixture of experts" : "dense"}, ${config.layers} layers, hidden ${config.hiddenSize}, ${config.heads} heads (${config.kvHeads} kv) of ${config.headDim}`,
  );
  printLine(`${count.parameters.toLocaleString("en")} parameters, ${count.activeParameters.toLocaleString("en")} used for a token`);
  printLine(`memory: weights ${formatBytes(count.bytes)}, KV cache ${formatBytes(kv)} a token`);
  for (const { part, parameters, bytes } of count.parts)
    printLine(`  ${part.padEnd(16)} ${formatBytes(bytes).padStart(9)}  ${parameters.toLocaleString("en")}`);
  if (memory !== undefined) {
    if (fits.length === 0) printLine(`${memory} GB: the weights alone don't fit`);
    for (const { batch, context } of fits)
      printLine(`  ${memory} GB hold ${String(batch).padStart(2)} sequences of ${context.toLocaleString("en")} tokens`);
  }
}

/** Contexts for each batch, as long as one is left. */
function whatFits(tokens: number, longest: number): { batch: number; context: number }[] {
  return BATCHES.map((batch) => ({ batch, context: Math.min(longest, Math.floor(tokens / batch)) })).filter(({ context }) => context > 0);
}

function showPackage(manifest: Manifest, { json }: InspectFlags): void {
  const { build, target, model, limits, memory, programs, kernels, files } = manifest;
  if (json) {
    printJson({ build, target, model, limits, memory, programs, kernels, files });
    return;
  }
  printLine(
    `${model.architecture}, ${model.parameters.toLocaleString("en")} parameters, ${target.target} ${target.arch}, activations ${target.activations}`,
  );
  printLine(
    `memory: weights ${formatBytes(memory.weights)}, KV cache ${formatBytes(memory.kvBytesPerToken)} a token, scratch at most ${formatBytes(memory.arena)}`,
  );
  for (const [tokens, bytes] of Object.entries(memory.byContext))
    printLine(`  ${tokens.padStart(7)} tokens of context: ${formatBytes(bytes)}`);
  printLine(
    `limits: ${Object.entries(limits)
      .map(([name, value]) => `${name} ${value}`)
      .join(", ")}`,
  );
  printLine("programs:");
  for (const { name, launches, arenaBytes } of programs)
    printLine(`  ${name.padEnd(16)} ${String(launches).padStart(5)} launches, scratch ${formatBytes(arenaBytes)}`);
  printLine("kernels:");
  for (const { name, op, kernel, launches } of kernels)
    printLine(`  ${name.padEnd(44)} ${op} by ${kernel}, ${Object.values(launches).reduce((a, b) => a + b, 0)} launches`);
  const bytes = Object.values(files).reduce((sum, file) => sum + file.bytes, 0);
  printLine(`${Object.keys(files).length} files, ${formatBytes(bytes)} in ${build}`);
}
