/** Renders a Jinja template in a process of its own, with a deadline and bounds on memory and output: it comes from somebody else's folder. */

import { execFile } from "node:child_process";
import type { JinjaInput, JinjaOutput } from "./jinja-worker.js";

/** Real templates take milliseconds; a node process takes 50 ms to start. */
const DEADLINE_MS = 5000;
const MAX_OUTPUT_BYTES = 64 * 2 ** 20;

/** `worker` is the built file of jinja-worker.ts. Failures come as `error`, never thrown. */
export function runJinja(worker: string, input: JinjaInput, deadline = DEADLINE_MS): Promise<JinjaOutput> {
  return new Promise((resolve) => {
    let text: string;
    try {
      text = JSON.stringify(input);
    } catch (error) {
      // A cycle, or a number that JSON doesn't have.
      return resolve({ error: error instanceof Error ? error.message : String(error) });
    }
    const options = { timeout: deadline, killSignal: "SIGKILL", maxBuffer: MAX_OUTPUT_BYTES, encoding: "utf8" } as const;
    const child = execFile(process.execPath, ["--max-old-space-size=128", worker], options, (error, stdout) => {
      if (!error) resolve(JSON.parse(stdout) as JinjaOutput);
      else if (error.killed) resolve({ error: `it takes more than ${deadline} ms or writes without end` });
      // V8 aborts when memory runs out; a program that can't be run at all just fails.
      else resolve({ error: error.signal === "SIGABRT" || Number(error.code) > 128 ? "it needs too much memory" : error.message });
    });
    // The child may be gone before it has read all.
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(text);
  });
}
