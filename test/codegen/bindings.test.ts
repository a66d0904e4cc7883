/** The bindings as a user's compiler sees them: the model's own numbers are literal types, and what the package does not have does not type. */

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import ts from "typescript";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Bindings, type BindingsInput, renderBindings } from "../../src/codegen/bindings.js";
import { projectPath } from "../../src/project.js";

const INPUT: BindingsInput = {
  architecture: "Ernie4_5ForCausalLM",
  parameters: 360_748_032,
  layers: 18,
  hiddenSize: 1024,
  vocabSize: 103_424,
  experts: 0,
  takesImages: false,
  maxContext: 8192,
  maxBatch: 8,
  tokens: { bos: 1, eos: 2, pad: 0 },
};

let folder: string;
let bindings: Bindings;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "ern-bindings-"));
  bindings = await renderBindings(INPUT);
  await writeFile(join(folder, "index.d.ts"), bindings.types);
  await writeFile(join(folder, "package.json"), '{ "type": "module" }');
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** What tsc says of a program that imports the bindings. */
async function diagnose(text: string): Promise<readonly string[]> {
  const file = join(folder, "user.ts");
  await writeFile(file, text);
  const program = ts.createProgram([file], {
    strict: true,
    noEmit: true,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    types: ["node"],
    typeRoots: [projectPath("node_modules/@types")],
  });
  return ts.getPreEmitDiagnostics(program).map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, "\n"));
}

describe("index.d.ts", () => {
  it("types a program that uses all of it", async () => {
    const text = `import { type Engine, load, tokens } from "./index.js";
const engine: Engine = await load({ threads: 2 });
const layers: 18 = engine.info.model.layers;
const vocabulary: 103424 = engine.info.model.vocabSize;
const context: 8192 = engine.info.maxContext;
const architecture: "Ernie4_5ForCausalLM" = engine.info.model.architecture;
const images: false = engine.info.model.takesImages;
const end: 2 = tokens.eos;
for await (const piece of engine.chat([{ role: "user", content: "?" }], { maxTokens: 3 })) process.stdout.write(piece.text);
await engine.dispose();
export { architecture, context, end, images, layers, vocabulary };
`;
    expect(await diagnose(text)).toEqual([]);
  });

  it.each([
    [
      "another number",
      "import { load } from './index.js'; const n: 19 = (await load()).info.model.layers; export { n };",
      "'18' is not assignable to type '19'",
    ],
    ["an option that is not there", "import { load } from './index.js'; await load({ gpu: true });", "'gpu' does not exist"],
    ["a token that is not there", "import { tokens } from './index.js'; export const t = tokens.mask;", "'mask' does not exist"],
    ["a change of a constant", "import { tokens } from './index.js'; tokens.eos = 2;", "read-only property"],
  ])("refuses %s", async (_, text, message) => {
    expect(await diagnose(text)).toEqual([expect.stringContaining(message)]);
  });

  it("ends with what is this model's", () => {
    expect(bindings.types.slice(bindings.types.indexOf("/** Ids of this model's special tokens."))).toMatchInlineSnapshot(`
      "/** Ids of this model's special tokens. */
      export interface Tokens {
        readonly bos: 1;
        readonly eos: 2;
        readonly pad: 0;
      }

      export declare const tokens: Tokens;
      /** Loads the model: 18 layers of width 1024, a vocabulary of 103424, at most 8192 tokens a sequence. Dispose of the engine when done. */
      export declare function load(options?: LoadOptions): Promise<Engine>;
      "
    `);
  });

  it("holds no name that is not plain", async () => {
    await expect(renderBindings({ ...INPUT, tokens: { "a b": 1 } })).rejects.toMatchObject({ kind: "bug" });
  });
});

it("index.js and index.cjs know nothing of the model", async () => {
  const other = await renderBindings({ ...INPUT, layers: 2, vocabSize: 5, tokens: {} });
  expect([other.esm, other.cjs]).toEqual([bindings.esm, bindings.cjs]);
});
