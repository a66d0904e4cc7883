/** Finds the C++ compiler and says who it is. What it is asked to do is in cxx.ts. */

import { execa } from "execa";
import { Diagnostic } from "../diagnostics.js";
import { sha256 } from "./cache.js";

export interface Compiler {
  /** The command as it is run. */
  readonly command: string;
  readonly kind: "gcc" | "clang";
  /** `12.2.0` */
  readonly version: string;
  /** First line of `--version`, which names the distribution's build too. */
  readonly banner: string;
  /** `x86_64-linux-gnu` */
  readonly machine: string;
  /** Hash of all that tells two compilers apart; no path is in it. */
  readonly identity: string;
}

/** The oldest that compile C++20 as the runtime uses it and know AVX512-BF16. */
export const MIN_VERSION = { gcc: 11, clang: 14 } as const;

const INSTALL =
  "install g++ 11 or newer (Debian, Ubuntu: `apt install g++`; Fedora: `dnf install gcc-c++`) or clang++ 14, or name one with --cxx or CXX";

/** Looks at one command; undefined where it can't be run. */
export async function probeCompiler(command: string): Promise<Compiler | undefined> {
  const [version, machine] = await Promise.all([
    execa(command, ["--version"], { reject: false, timeout: 20_000 }),
    execa(command, ["-dumpmachine"], { reject: false, timeout: 20_000 }),
  ]);
  if (version.exitCode !== 0 || machine.exitCode !== 0) return undefined;
  const banner = version.stdout.split("\n")[0]?.trim() ?? "";
  const kind = /\bclang\b/.test(banner) ? "clang" : "gcc";
  const number = kind === "clang" ? /version (\d+(?:\.\d+)*)/.exec(banner)?.[1] : /(\d+\.\d+\.\d+)(?!.*\d+\.\d+\.\d+)/.exec(banner)?.[1];
  if (!number) return undefined;
  // The program's own name opens the banner (`g++`, `x86_64-linux-gnu-g++-12`): the same compiler under two names is one.
  const identity = sha256(`${kind} ${banner.replace(/^\S+/, "")} ${machine.stdout.trim()}`);
  return { command, kind, version: number, banner, machine: machine.stdout.trim(), identity };
}

export function isRecent(compiler: Compiler): boolean {
  return Number.parseInt(compiler.version, 10) >= MIN_VERSION[compiler.kind];
}

/** `requested` (--cxx), else CXX, else g++, else clang++. */
export async function findCompiler(requested?: string, env: NodeJS.ProcessEnv = process.env): Promise<Compiler> {
  const named = requested ?? (env.CXX || undefined);
  const candidates = named ? [named] : ["g++", "clang++"];
  const old: Compiler[] = [];
  for (const command of candidates) {
    const compiler = await probeCompiler(command);
    if (!compiler) continue;
    if (isRecent(compiler)) return compiler;
    old.push(compiler);
  }
  const place = requested ? "--cxx" : named ? "CXX" : "PATH";
  const first = old[0];
  if (first) {
    throw new Diagnostic({
      code: "cxx-too-old",
      kind: "environment",
      message: `found ${first.kind} ${first.version}, expected ${MIN_VERSION[first.kind]} or newer`,
      place: `${place}: ${first.command}`,
      hint: INSTALL,
    });
  }
  throw new Diagnostic({
    code: "cxx-missing",
    kind: "environment",
    message: named ? `${named} can't be run as a C++ compiler` : "found neither g++ nor clang++",
    place,
    hint: INSTALL,
  });
}
