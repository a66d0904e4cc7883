/**
 * A sweep on replayed measurements in a process of its own, to be killed: prints each trial's line once it is reported. The compiled compiler is
 * what runs, as for a user.
 *
 *   node replay-sweep.mjs <recording> <journal> <table> <delay ms> <tasks as JSON>
 */
import { writeSync } from "node:fs";
import { ReplayBackend } from "../../dist/tune/replay.js";
import { tune } from "../../dist/tune/run.js";
import { DEFAULT_STRATEGY } from "../../dist/tune/strategies/index.js";
import { parseTask, variantKey } from "../../dist/tune/task.js";

const [recording, journal, table, delay, tasks] = process.argv.slice(2);
const backend = await ReplayBackend.open(recording, Number(delay));
const { machine, device, build } = backend.sweep;
await tune({
  tasks: JSON.parse(tasks).map(parseTask),
  arch: machine.arch,
  device,
  machine,
  build,
  backend,
  strategy: DEFAULT_STRATEGY,
  seed: 1,
  trials: 60,
  journal,
  resume: true,
  table,
  onEvent: ({ record }) => {
    if (record.kind === "trial") writeSync(1, `${record.task} | ${variantKey(record.variant)}\n`);
  },
});
