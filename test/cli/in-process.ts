/** The command line without a process: what it prints, and the code that it would end with. For verbs that load no package. */

import { vi } from "vitest";
import { reportFailure } from "../../src/cli/failure.js";
import { createProgram } from "../../src/cli/program.js";

export interface Printed {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

export async function inProcess(...args: string[]): Promise<Printed> {
  const out: string[] = [];
  const err: string[] = [];
  const spies = [capture(process.stdout, out), capture(process.stderr, err)];
  const before = process.exitCode;
  process.exitCode = undefined;
  let exitCode = 0;
  try {
    await createProgram().parseAsync(args, { from: "user" });
  } catch (error) {
    exitCode = reportFailure(error, args.includes("--json"));
  } finally {
    exitCode = typeof process.exitCode === "number" ? process.exitCode : exitCode;
    process.exitCode = before;
    for (const spy of spies) spy.mockRestore();
  }
  return { exitCode, stdout: out.join(""), stderr: err.join("") };
}

function capture(stream: NodeJS.WriteStream, into: string[]) {
  return vi.spyOn(stream, "write").mockImplementation((chunk: unknown) => into.push(String(chunk)) > 0);
}
