// Bundles the report page of `tune report` with its plotting library into one script and one style sheet, under dist/tune/report; `report.ts` puts
// them into each page. The script begins with the licences of what is in it.
import { readdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import { build } from "esbuild";

const common = { bundle: true, minify: true, target: "es2022", charset: "ascii", legalComments: "inline", logLevel: "warning" };
const script = {
  ...common,
  entryPoints: ["src/tune/page/main.ts"],
  platform: "browser",
  format: "iife",
  outfile: "dist/tune/report/page.js",
};

/** Folders of the packages whose files are in the bundle. */
function packagesOf(inputs) {
  const folders = Object.keys(inputs).flatMap((path) => /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1] ?? []);
  return [...new Set(folders)].sort();
}

/** Licences by text, each with the packages that are under it; most differ in nothing but the years. */
function licences(folders) {
  const byText = new Map();
  for (const folder of folders) {
    const { name, version } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    if (!file) throw new Error(`${folder} has no licence file`);
    const text = readFileSync(`${folder}/${file}`, "utf8").trim();
    byText.set(text, [...(byText.get(text) ?? []), `${name} ${version}`]);
  }
  return [...byText].map(([text, names]) => `${names.join(", ")}\n\n${text}`).join("\n\n----\n\n");
}

const { metafile } = await build({ ...script, metafile: true, write: false });
const text = licences(packagesOf(metafile.inputs)).replaceAll("*/", "* /");
await build({ ...script, banner: { js: `/*! This page contains:\n\n${text}\n*/` } });
await build({ ...common, entryPoints: ["src/tune/page/style.css"], outfile: `${dirname(script.outfile)}/page.css` });
