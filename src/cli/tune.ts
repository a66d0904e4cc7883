/** `ernie-compile tune`: the parent of the verbs that find fast variants of kernels by measurement and show what was found; one file each, tune-*.ts. */

import type { Command } from "commander";
import { registerExport } from "./tune-export.js";
import { registerReport } from "./tune-report.js";
import { registerSimulate } from "./tune-simulate.js";

const SUBVERBS = [registerReport, registerExport, registerSimulate];

export function registerTune(program: Command): void {
  const tune = program
    .command("tune")
    .description("find the fastest variant of kernels by measurement")
    .addHelpText("after", "\nExample:\n  ernie-compile tune simulate convolution_A100_T4.json.gz --seeds 100");
  for (const register of SUBVERBS) register(tune);
}
