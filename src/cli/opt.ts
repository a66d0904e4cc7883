/** `ernie-compile opt`: runs passes over graphs in text form; what a pass author works with. */

import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import type { Command } from "commander";
import { Diagnostic } from "../diagnostics.js";
import { parseAll } from "../ir/parse.js";
import { printAll } from "../ir/print.js";
import { levelOf, verify } from "../ir/verify.js";
import type { Pass } from "../passes/pass.js";
import { BUCKET_PASSES, FUSION_PASSES, fusionPasses } from "../passes/pipeline.js";
import { runPrograms } from "../passes/run.js";
import { fileError, makeFolder } from "../weights/file.js";
import { integer } from "./numbers.js";
import { note, printLine } from "./terminal.js";

interface OptFlags {
  passes?: string;
  dumpDir?: string;
  limit?: number;
  time?: boolean;
}

export function registerOpt(program: Command): void {
  program
    .command("opt")
    .description("run passes over a graph in text form")
    .argument("<file.ir>", "graphs to read; - for standard input")
    .option(
      "--passes <names>",
      `passes in order, separated by commas (default: all of ${[...new Set(FUSION_PASSES.map((pass) => pass.name))].join(", ")})`,
    )
    .option("--dump-dir <dir>", "write the graph after each pass, numbered")
    .option("--limit <n>", "stop after n rewrites, to find the guilty one by halving", integer(0))
    .option("--time", "print what each pass did and how long it took")
    .addHelpText("after", "\nExample:\n  ernie-compile opt g.ir --passes canonicalize,fuse-qkv --time")
    .action(async (file: string, flags: OptFlags) => {
      if (flags.dumpDir !== undefined) await makeFolder(resolve(flags.dumpDir));
      const text = readText(file);
      const parsed = parseAll(text, file);
      for (const one of parsed) verify(one.graph, levelOf(one.graph), one);
      const graphs = parsed.map((one) => one.graph);
      const { graphs: after } = runPrograms(graphs, choosePasses(flags.passes), {
        ...(flags.dumpDir === undefined ? {} : { dumpDir: resolve(flags.dumpDir) }),
        ...(flags.limit === undefined ? {} : { limit: flags.limit }),
        onPass: ({ pass, changed, milliseconds, applied, refused }) => {
          if (!flags.time) return;
          note(
            `${pass.padEnd(22)} ${milliseconds.toFixed(2).padStart(8)} ms  ${changed ? `${applied.length} rewrites` : "nothing changed"}`,
          );
          for (const { rule, guard, at } of refused) note(`  not ${rule}: "${guard}" does not hold at ${at}`);
        },
      });
      printLine(printAll(after).trimEnd());
    });
}

function readText(file: string): string {
  try {
    return readFileSync(file === "-" ? 0 : file, "utf8");
  } catch (error) {
    throw fileError(error, file);
  }
}

function choosePasses(names: string | undefined): readonly Pass[] {
  if (names === undefined) return FUSION_PASSES;
  const known = [...fusionPasses("cuda"), ...BUCKET_PASSES];
  return names.split(",").map((name) => {
    const pass = known.find((candidate) => candidate.name === name.trim());
    if (!pass) {
      throw new Diagnostic({
        code: "unknown-pass",
        message: `found ${JSON.stringify(name)}, expected a pass that runs on a graph alone`,
        place: "--passes",
        hint: `passes: ${[...new Set(known.map((candidate) => candidate.name))].join(", ")}`,
      });
    }
    return pass;
  });
}
