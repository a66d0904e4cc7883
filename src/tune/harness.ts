/**
 * One process of runtime/tools/tune.cpp or tune_cuda.cpp: the commands, the deadlines, and what its end means. What variants are and whether results are
 * right is local.ts.
 */

import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { bug } from "../diagnostics.js";
import type { TrialStatus } from "./records.js";

/** It ended, or was ended, because of what it ran. */
export class HarnessEnd extends Error {
  constructor(
    readonly status: Extract<TrialStatus, "crash" | "hang" | "error" | "wrong">,
    message: string,
  ) {
    super(message);
  }
}

/** Nanoseconds of each round, for each of the variants. */
export interface Times {
  /** That each time is the mean of. */
  readonly launches: number;
  readonly times: readonly (readonly number[])[];
}

export class Harness {
  readonly #answers: ((line: string | undefined) => void)[] = [];
  readonly #lines: string[] = [];
  readonly #closed: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  #ended = false;

  private constructor(
    private readonly child: ReturnType<typeof spawn>,
    private readonly dir: string,
    private readonly deadlineMs: number,
  ) {
    if (!child.stdout) throw bug("a harness without output");
    // What it is asked after it has died is answered by its end.
    child.stdin?.on("error", () => undefined);
    createInterface({ input: child.stdout }).on("line", (line) => {
      const waiting = this.#answers.shift();
      if (waiting) waiting(line);
      else this.#lines.push(line);
    });
    this.#closed = new Promise((resolve) => {
      child.on("error", () => resolve({ code: 127, signal: null }));
      child.on("close", (code, signal) => {
        this.#ended = true;
        for (const waiting of this.#answers.splice(0)) waiting(undefined);
        resolve({ code, signal });
      });
    });
  }

  /** Starts one for one measurement and waits for the device: that may take as long as another sweep keeps it. */
  static async start(program: string, spec: readonly string[], deadlineMs: number): Promise<Harness> {
    return Harness.#run(program, ["spec"], deadlineMs, spec, { LC_ALL: "C" });
  }

  /** Starts one that `open` gives its work, one after the other. */
  static async serve(program: string, args: readonly string[], deadlineMs: number): Promise<Harness> {
    return Harness.#run(program, args, deadlineMs, [], { ...process.env, LC_ALL: "C" });
  }

  static async #run(program: string, args: readonly string[], deadlineMs: number, spec: readonly string[], env: NodeJS.ProcessEnv) {
    const dir = await mkdtemp(join(tmpdir(), "ernie-compile-tune-"));
    await writeFile(join(dir, "spec"), [...spec, ""].join("\n"));
    // In a group of its own: a Ctrl-C is for the tuner, and must not look like a variant that crashed.
    const child = spawn(program, args, { cwd: dir, stdio: ["pipe", "pipe", "ignore"], env, detached: true });
    const harness = new Harness(child, dir, deadlineMs);
    try {
      await harness.#answer("ready", Number.POSITIVE_INFINITY);
      return harness;
    } catch (error) {
      await harness.end();
      throw error;
    }
  }

  /** Makes what a spec says, in place of what was there. */
  async open(spec: readonly string[]): Promise<void> {
    await writeFile(join(this.dir, "spec"), [...spec, ""].join("\n"));
    this.child.stdin?.write("open spec\n");
    await this.#answer("ready", this.deadlineMs);
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Runs a variant once; gives the bytes of all outputs, one after the other. */
  async check(variant: number, seed: number, input: Uint8Array): Promise<Buffer> {
    await writeFile(join(this.dir, "in"), input);
    this.child.stdin?.write(`check ${variant} ${seed} in out\n`);
    await this.#answer("checked", this.deadlineMs);
    return readFile(join(this.dir, "out"));
  }

  async time(rounds: number, variants: readonly number[]): Promise<Times> {
    this.child.stdin?.write(`time ${rounds} ${variants.join(" ")}\n`);
    const [launches = 0, ...times] = (await this.#answer("times", this.deadlineMs)).trim().split(" ").map(Number);
    if (times.length !== rounds * variants.length) throw bug(`a harness gave ${times.length} times for ${rounds} x ${variants.length}`);
    return { launches, times: variants.map((_, i) => times.slice(i * rounds, (i + 1) * rounds)) };
  }

  /** Ends the process and removes its files. */
  async end(): Promise<void> {
    if (!this.#ended) this.child.kill("SIGKILL");
    await this.#closed;
    await rm(this.dir, { recursive: true, force: true });
  }

  /** What follows `expected` on the next line. */
  async #answer(expected: string, deadlineMs: number): Promise<string> {
    let late = false;
    let timer: NodeJS.Timeout | undefined;
    if (Number.isFinite(deadlineMs)) {
      timer = setTimeout(() => {
        late = true;
        this.child.kill("SIGKILL");
      }, deadlineMs);
    }
    const line = await this.#nextLine();
    clearTimeout(timer);
    if (line === undefined) {
      const { code, signal } = await this.#closed;
      if (late) throw new HarnessEnd("hang", `did not end within ${deadlineMs / 1000} s`);
      throw new HarnessEnd("crash", signal ? `ended by ${signal}` : `exit ${code}`);
    }
    if (line === expected || line.startsWith(`${expected} `)) return line.slice(expected.length);
    if (line.startsWith("failed ")) throw new HarnessEnd("crash", line.slice("failed ".length, 300));
    if (line.startsWith("overrun ")) throw new HarnessEnd("wrong", `wrote behind the end of argument ${line.slice(8)}`);
    throw new HarnessEnd("error", line.replace(/^error /, "").slice(0, 300));
  }

  #nextLine(): Promise<string | undefined> {
    const line = this.#lines.shift();
    if (line !== undefined) return Promise.resolve(line);
    if (this.#ended) return Promise.resolve(undefined);
    return new Promise((resolve) => this.#answers.push(resolve));
  }
}
