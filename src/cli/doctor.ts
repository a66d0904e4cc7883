/** `ernie-compile doctor`: what this machine has, what is missing, and the remedy. */

import type { Command } from "commander";
import { type Check, diagnose } from "../toolchain/doctor.js";
import { bold, EXIT, green, printJson, printLine, red } from "./terminal.js";

const MARKS: { readonly [K in Check["status"]]: string } = { ok: "ok  ", warn: "warn", fail: "FAIL" };

export function registerDoctor(program: Command): void {
  program
    .command("doctor")
    .description("check this machine: compilers, CPU, GPU, memory, cache")
    .option("--cxx <command>", "compiler to check instead of the one found")
    .option("--json", "print one JSON object")
    .addHelpText("after", "\nExample:\n  ernie-compile doctor")
    .action(async ({ cxx, json }: { cxx?: string; json?: boolean }) => {
      const checks = await diagnose({ cxx });
      const ok = checks.every((check) => check.status !== "fail");
      if (json) printJson({ ok, checks });
      else for (const check of checks) printCheck(check);
      if (!ok) process.exitCode = EXIT.failure;
    });
}

function printCheck({ name, status, found, remedy }: Check): void {
  const mark =
    status === "ok"
      ? green(MARKS.ok, process.stdout)
      : status === "fail"
        ? red(MARKS.fail, process.stdout)
        : bold(MARKS.warn, process.stdout);
  printLine(`${mark}  ${name.padEnd(11)} ${found}${remedy ? `\n      ${" ".repeat(11)} -> ${remedy}` : ""}`);
}
