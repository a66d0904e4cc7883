/** `ernie-compile chat`: a conversation on the terminal. Each turn prefills only what is new, since the engine keeps the prefix. */

import { createInterface } from "node:readline/promises";
import type { Command } from "commander";
import type { Message } from "../host/api.js";
import { withEngine } from "./package-folder.js";
import { addSamplingFlags, collect, type SamplingFlags, samplingOptions, summary } from "./run.js";
import { bold, dim, EXIT, note } from "./terminal.js";

export function registerChat(program: Command): void {
  const command = program
    .command("chat")
    .description("talk with a compiled package")
    .argument("<package>", "folder that `build` made")
    .option("--system <text>", "system message")
    .addHelpText(
      "after",
      "\nExample:\n  ernie-compile chat ./ernie --system 'Answer in one sentence.'\nAn empty line or Ctrl-D ends the conversation; Ctrl-C stops the answer.",
    );
  addSamplingFlags(command).action(async (folder: string, flags: SamplingFlags & { system?: string }) => {
    await withEngine(folder, flags.threads === undefined ? {} : { threads: flags.threads }, async (engine) => {
      const messages: Message[] = flags.system === undefined ? [] : [{ role: "system", content: flags.system }];
      const input = createInterface({ input: process.stdin, output: process.stderr });
      let answering: AbortController | undefined;
      input.on("SIGINT", () => {
        if (answering) return answering.abort();
        process.exitCode = EXIT.interrupted;
        input.close();
      });
      input.setPrompt(bold("> "));
      input.prompt();
      for await (const line of input) {
        if (line.trim() === "") break;
        messages.push({ role: "user", content: line });
        answering = new AbortController();
        const start = performance.now();
        const options = { ...samplingOptions(flags), signal: answering.signal };
        const { text, finish } = await collect(engine.chat(messages, options), (piece) => process.stdout.write(piece));
        answering = undefined;
        messages.push({ role: "assistant", content: text });
        process.stdout.write("\n");
        note(dim(summary(finish, performance.now() - start)));
        input.prompt();
      }
      input.close();
    });
  });
}
