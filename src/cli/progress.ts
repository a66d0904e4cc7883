/** Shows a build's phases: listr2 tasks with counts on a terminal, one plain line a finished phase elsewhere, nothing with `--json`. */

import { Listr } from "listr2";
import { PHASES, type Phase, type Progress } from "../compile.js";
import { formatBytes, formatMs, note } from "./terminal.js";

const TITLES: { readonly [P in Phase]: string } = {
  load: "read the model",
  lower: "compile the graph",
  generate: "write sources",
  compile: "compile kernels and runtime",
  pack: "pack weights",
  link: "link",
  write: "finish the package",
};

export type ProgressKind = "terminal" | "plain" | "none";

export function progressKind(json: boolean): ProgressKind {
  if (json) return "none";
  const { isTTY, columns } = process.stderr;
  // Some terminals don't know how wide they are.
  return isTTY && columns > 0 && !process.env.NO_COLOR && process.env.TERM !== "dumb" ? "terminal" : "plain";
}

/** Runs `work` and shows what it reports. */
export async function withProgress<T>(kind: ProgressKind, work: (onProgress: (progress: Progress) => void) => Promise<T>): Promise<T> {
  if (kind === "none") return work(() => {});
  if (kind === "plain") return work(plainProgress);
  return terminalProgress(work);
}

function plainProgress(progress: Progress): void {
  if (progress.kind === "end") note(`${TITLES[progress.phase]}: ${formatMs(progress.ms)}`);
}

async function terminalProgress<T>(work: (onProgress: (progress: Progress) => void) => Promise<T>): Promise<T> {
  const gates = new Map(PHASES.map((phase) => [phase, new Gate()]));
  const result = work((progress) => gates.get(progress.phase)?.report(progress));
  // A failed or shorter build (no weights to pack) must not leave tasks waiting.
  const over = result.then(
    () => "skipped" as const,
    () => "failed" as const,
  );
  const tasks = new Listr(
    PHASES.map((phase) => ({
      title: TITLES[phase],
      task: async (_context: unknown, task: { title: string; output: string; skip: (message: string) => void }) => {
        const gate = gates.get(phase) as Gate;
        gate.onStep = (text) => {
          task.output = text;
        };
        const end = await Promise.race([gate.ended, over]);
        if (end === "skipped") task.skip(TITLES[phase]);
        else if (end === "failed") throw new Error(TITLES[phase]);
        else task.title = `${TITLES[phase]} ${formatMs(end)}`;
      },
    })),
    { concurrent: true, exitOnError: false, renderer: "default", rendererOptions: { showErrorMessage: false, collapseErrors: true } },
  );
  await tasks.run();
  return result;
}

/** The state of one phase, between the compiler's reports and the task that shows them. */
class Gate {
  onStep: (text: string) => void = () => {};
  readonly ended: Promise<number>;
  #end: (ms: number) => void = () => {};

  constructor() {
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  report(progress: Progress): void {
    if (progress.kind === "end") this.#end(progress.ms);
    else if (progress.kind === "step") this.onStep(stepText(progress));
  }
}

function stepText({ phase, done, total, detail }: Extract<Progress, { kind: "step" }>): string {
  if (phase !== "pack") return detail ?? `${done} of ${total}`;
  const width = 24;
  const filled = total > 0 ? Math.round((width * done) / total) : width;
  return `${"█".repeat(filled)}${"░".repeat(width - filled)} ${formatBytes(done)} of ${formatBytes(total)}`;
}
