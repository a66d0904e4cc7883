/**
 * What `npm pack` makes works elsewhere: installed from the tarball alone, its command line says what it finds, builds the mini model and runs it.
 * Slow (minutes with a cold compile cache). Needs `npm run build` before, as `npm test` does, and the npm registry or its cache for dependencies.
 */

import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../../", import.meta.url));
const model = join(root, "examples/models/ernie-mini-moe");
const QUESTION = "背誦李白《靜夜思》";
/** Without checkpoints, goldens and tests there is no more than this. */
const SIZE_LIMIT = 2_000_000;
/** What nobody who installs it needs. */
const FOREIGN = /^(test|bench|examples|scripts|src|docs\/api|build|\.ci)\/|goldens|\.safetensors$|\.test\./;

let folder: string;
let packed: { filename: string; size: number; files: { path: string }[] };

beforeAll(async () => {
  expect(await stat(join(root, "dist/cli/main.js")).catch(() => undefined), "dist is missing: run `npm run build`").toBeDefined();
  folder = await mkdtemp(join(tmpdir(), "ernie-compile-pack-"));
  // Without scripts: `prepack` would rewrite dist under the tests that run beside this one.
  const { stdout } = await execa("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], {
    cwd: root,
    timeout: 60_000,
  });
  [packed] = JSON.parse(stdout) as [typeof packed];
});

afterAll(() => rm(folder, { recursive: true, force: true }));

describe("the npm package", () => {
  it("holds what it needs and nothing else", () => {
    const paths = packed.files.map(({ path }) => path);
    expect(paths.filter((path) => FOREIGN.test(path))).toEqual([]);
    for (const needed of [
      "dist/cli/main.js",
      "dist/index.js",
      "dist/index.d.ts",
      "dist/host/bundle/host.cjs",
      "runtime/include/ern.h",
      "schema/model.schema.json",
      "README.md",
      "LICENSE",
    ]) {
      expect(paths).toContain(needed);
    }
    expect(paths.some((path) => path.startsWith("templates/cpu/"))).toBe(true);
    expect(packed.size).toBeLessThan(SIZE_LIMIT);
  });

  describe("installed elsewhere", () => {
    const home = () => join(folder, "app");
    const npx = async (...args: string[]) => {
      const { stdout } = await execa("npx", ["--no-install", "ernie-compile", ...args], { cwd: home(), timeout: 240_000 });
      return stdout;
    };

    beforeAll(async () => {
      await execa("mkdir", [home()]);
      await writeFile(join(home(), "package.json"), JSON.stringify({ name: "app", version: "1.0.0", private: true, type: "module" }));
      const flags = ["--prefer-offline", "--no-audit", "--no-fund"];
      await execa("npm", ["install", ...flags, join(folder, packed.filename)], { cwd: home(), timeout: 240_000 });
    });

    it("examines the machine", async () => {
      expect(JSON.parse(await npx("doctor", "--json"))).toMatchObject({ ok: true });
    });

    it("builds a model and answers", async () => {
      await npx("build", model, "-o", "ernie", "--json");
      const answer = JSON.parse(await npx("run", "ernie", "-p", QUESTION, "--temperature", "0", "--json")) as {
        text: string;
        finishReason: string;
      };
      const expected = JSON.parse(await readFile(join(model, "expected.json"), "utf8")) as { greedy: { user?: string; text: string }[] };
      expect(answer).toMatchObject({ text: expected.greedy.find(({ user }) => user === QUESTION)?.text, finishReason: "stop" });
    });

    it("can be imported, with types for itself and for what it built", async () => {
      const program = 'import * as api from "ernie-compile"; console.log(typeof api.compile, typeof api.Diagnostic);';
      const { stdout } = await execa(process.execPath, ["--input-type=module", "-e", program], { cwd: home(), timeout: 60_000 });
      expect(stdout).toBe("function function");
      await writeFile(
        join(home(), "typed.mts"),
        `
        import { type CompileResult, compile, resolveRequest } from "ernie-compile";
        import { load } from "./ernie/index.js";
        export const result: Promise<CompileResult> = compile(await resolveRequest("model.json", {}));
        await using engine = await load({ threads: 1 });
        for await (const piece of engine.chat([{ role: "user", content: "x" }], { maxTokens: 1 })) {
          const text: string = piece.text;
          if ("finishReason" in piece) console.log(text, piece.usage.cachedTokens);
        }
        // @ts-expect-error no such option
        await load({ thread: 1 });
        `,
      );
      const tsc = join(root, "node_modules/typescript/bin/tsc");
      const flags = [
        "--noEmit",
        "--strict",
        "--module",
        "nodenext",
        "--target",
        "es2023",
        "--lib",
        "es2023,esnext.disposable",
        "--types",
        "node",
      ];
      const { exitCode, stdout: errors } = await execa(
        process.execPath,
        [tsc, ...flags, "--typeRoots", join(root, "node_modules/@types"), "typed.mts"],
        {
          cwd: home(),
          reject: false,
          timeout: 60_000,
        },
      );
      expect(errors).toBe("");
      expect(exitCode).toBe(0);
    });

    it("leaves a package that runs once the compiler is gone", async () => {
      await execa("npm", ["uninstall", "ernie-compile", "--no-audit", "--no-fund"], { cwd: home(), timeout: 60_000 });
      const program = `
        import { load } from "./ernie/index.js";
        const engine = await load();
        let text = "";
        for await (const piece of engine.chat([{ role: "user", content: ${JSON.stringify(QUESTION)} }], { temperature: 0 })) text += piece.text;
        await engine.dispose();
        console.log(text);`;
      const { stdout } = await execa(process.execPath, ["--input-type=module", "-e", program], { cwd: home(), timeout: 60_000 });
      expect(stdout).toContain("低頭思故鄉");
    });
  });
});
