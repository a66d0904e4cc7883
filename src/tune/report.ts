/**
 * The report of a sweep as one HTML file that fetches nothing: the bundled page (page/, made by scripts/bundle-page.mjs) with the sweep's data in it.
 * What a journal says is data: it stands in a script element that is never run, in a form that cannot end that element, and the page puts it
 * into text nodes only. The policy in the head lets no script run but ours, whatever else might go wrong.
 */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { Diagnostic } from "../diagnostics.js";
import { projectPath } from "../project.js";
import type { ReportData } from "./report-data.js";

export function renderReport(data: ReportData): string {
  const script = readBundle("page.js");
  const style = readBundle("page.css");
  const hash = createHash("sha256").update(script).digest("base64");
  // The library sets the style of its charts in elements of their own.
  const policy = `default-src 'none'; script-src 'sha256-${hash}'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="ernie-compile tune report">
<title>Sweep</title>
<style>${style}</style>
</head>
<body>
<noscript><p>This report draws its charts with JavaScript, which is switched off here.</p></noscript>
<script type="application/json" id="data">${inScript(data)}</script>
<script>${script}</script>
</body>
</html>
`;
}

function readBundle(name: string): string {
  const path = projectPath(`dist/tune/report/${name}`);
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw new Diagnostic({
      code: "report-not-built",
      kind: "environment",
      message: "found no bundled page, expected what the build of ernie-compile makes",
      place: path,
      hint: "in a checkout run `npm run build`; else install the package again",
      cause,
    });
  }
}

/** JSON without `<`, so that no text in it is an end tag or a comment. */
export function inScript(data: unknown): string {
  return JSON.stringify(data).replaceAll("<", "\\u003c").replaceAll("\u2028", "\\u2028").replaceAll("\u2029", "\\u2029");
}
