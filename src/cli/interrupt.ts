/** Ctrl-C and SIGTERM, for all verbs: exit 130 and 143. A verb that has something to end in order asks for the signal; the second Ctrl-C does not wait for it. */

import { EXIT } from "./terminal.js";

const CODES = { SIGINT: EXIT.interrupted, SIGTERM: EXIT.terminated } as const;

const controller = new AbortController();
let awaited = false;

export function watchInterrupts(): void {
  for (const [name, code] of Object.entries(CODES)) {
    process.on(name, () => {
      if (!awaited || controller.signal.aborted) process.exit(code);
      process.exitCode = code;
      controller.abort();
    });
  }
}

/** From now on the first Ctrl-C aborts this signal instead of ending the process. */
export function interruptSignal(): AbortSignal {
  awaited = true;
  return controller.signal;
}
