/**
 * A program of its own: renders one Jinja template in several contexts, from JSON on stdin to JSON on stdout. A template is data from somebody
 * else's folder; one that asks for endless memory ends the process that renders it, and a thread would take the user's program with it.
 */

import { Template } from "@huggingface/jinja";

export interface JinjaInput {
  readonly template: string;
  readonly contexts: readonly Readonly<Record<string, unknown>>[];
}
export type JinjaOutput = { readonly texts: readonly string[] } | { readonly error: string };

function render({ template, contexts }: JinjaInput): JinjaOutput {
  try {
    const parsed = new Template(template);
    return { texts: contexts.map((context) => parsed.render({ ...context })) };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

async function main(): Promise<void> {
  let input = "";
  process.stdin.setEncoding("utf8");
  for await (const chunk of process.stdin) input += chunk;
  process.stdout.write(JSON.stringify(render(JSON.parse(input) as JinjaInput)));
}

void main();
