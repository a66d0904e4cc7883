/** `ernie-compile tune worker`: measures what others ask for, by way of a queue. */

import type { Command } from "commander";

export function registerTuneWorker(tune: Command): void {
  void tune;
}
