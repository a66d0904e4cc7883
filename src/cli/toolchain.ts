/** `ernie-compile toolchain install cuda`: the compilers of a GPU package, without a system toolkit. */

import { Argument, type Command } from "commander";
import { installCuda } from "../toolchain/cuda-install.js";
import { findNvcc } from "../toolchain/nvcc.js";
import { interruptSignal } from "./interrupt.js";
import { note, printJson, printLine } from "./terminal.js";

export function registerToolchain(program: Command): void {
  const command = program
    .command("toolchain")
    .description("compilers for GPU packages")
    .addHelpText("after", "\nExample:\n  ernie-compile toolchain install cuda");
  command
    .command("install")
    .description("put nvcc 13.0 and Triton 3.6 into the cache folder, with Python's venv and pip")
    .addArgument(new Argument("<what>", "the toolchain").choices(["cuda"]))
    .option("--python <command>", "the Python to use (default: python3)")
    .option("--json", "print one JSON object")
    .addHelpText("after", "\nExample:\n  ernie-compile toolchain install cuda")
    .action(async (_: string, { python, json }: { python?: string; json?: boolean }) => {
      const installed = await installCuda({ python, signal: interruptSignal(), onStep: (what) => json || note(what) });
      const nvcc = await findNvcc({ cuda: installed.toolkit });
      if (json) printJson({ ...installed, nvcc: nvcc.version });
      else printLine(`nvcc ${nvcc.version} in ${installed.toolkit}`);
    });
}
