/**
 * A program of its own: renders one Jinja template on several conversations, from JSON on stdin to JSON on stdout. A template is data from somebody
 * else's folder; one that asks for endless memory ends the process that renders it, and a thread would take the compiler with it.
 */

import { Template } from "@huggingface/jinja";

export interface ProbeInput {
  readonly template: string;
  readonly contexts: readonly Readonly<Record<string, unknown>>[];
}
export type ProbeOutput = { readonly texts: readonly string[] } | { readonly error: string };

function render({ template, contexts }: ProbeInput): ProbeOutput {
  try {
    const parsed = new Template(template);
    return { texts: contexts.map((context) => parsed.render({ ...context })) };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

let input = "";
process.stdin.setEncoding("utf8");
for await (const chunk of process.stdin) input += chunk;
process.stdout.write(JSON.stringify(render(JSON.parse(input) as ProbeInput)));
