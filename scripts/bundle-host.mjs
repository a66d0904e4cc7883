// Bundles what a generated package carries in JavaScript into single CommonJS files without dependencies, which both `import` and `require` load.
import { build } from "esbuild";

const common = { bundle: true, platform: "node", format: "cjs", target: "node20", legalComments: "inline", logLevel: "warning" };
await build({ ...common, entryPoints: ["src/host/engine.ts"], outfile: "dist/host/bundle/host.cjs" });
await build({ ...common, entryPoints: ["src/host/chat/jinja-worker.ts"], outfile: "dist/host/bundle/jinja-worker.cjs" });
