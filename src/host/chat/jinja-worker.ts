/** Runs in a worker of its own: renders one Jinja template and posts the text, or why it could not. It is killed when it takes too long. */

import { parentPort, workerData } from "node:worker_threads";
import { Template } from "@huggingface/jinja";

const { template, context } = workerData as { template: string; context: Record<string, unknown> };
try {
  parentPort?.postMessage({ text: new Template(template).render(context) });
} catch (error) {
  parentPort?.postMessage({ error: error instanceof Error ? error.message : String(error) });
}
