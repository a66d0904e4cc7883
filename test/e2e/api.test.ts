/** The JavaScript API of a built package: generations, chat, cancelling, limits, bad options, and the ends of engines, threads and processes. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine, Finish, GenerateOptions, LoadOptions, Piece } from "../../src/host/api.js";
import { buildPackage, MODELS } from "./support.js";

const MODEL = join(MODELS, "ernie-mini-moe");
const expected = JSON.parse(readFileSync(join(MODEL, "expected.json"), "utf8")) as {
  greedy: { user?: string; prompt_ids: number[]; output_ids: number[]; text: string }[];
};
const poem = expected.greedy.find((entry) => entry.user === "背誦李白《靜夜思》") as (typeof expected.greedy)[number];
const POEM = [{ role: "user" as const, content: "背誦李白《靜夜思》" }];
const GREEDY: GenerateOptions = { temperature: 0 };

let folder: string;
let engine: Engine;

beforeAll(async () => {
  folder = await buildPackage(MODEL);
  engine = await loadFrom(folder);
});
afterAll(() => engine?.dispose());

async function loadFrom(path: string, options?: LoadOptions): Promise<Engine> {
  const { load } = (await import(pathToFileURL(join(path, "index.js")).href)) as { load: (options?: LoadOptions) => Promise<Engine> };
  return load(options);
}

async function collect(pieces: AsyncIterable<Piece | Finish>): Promise<{ text: string; ids: number[]; finish: Finish; pieces: Piece[] }> {
  const all: Piece[] = [];
  let finish: Finish | undefined;
  for await (const piece of pieces) {
    all.push(piece);
    if ("finishReason" in piece) finish = piece;
  }
  return { text: all.map((piece) => piece.text).join(""), ids: all.flatMap((piece) => piece.ids), finish: finish as Finish, pieces: all };
}

describe("generate and chat", () => {
  it("recites, and says how it ended", async () => {
    const { text, ids, finish } = await collect(engine.chat(POEM, GREEDY));
    expect(text).toBe(poem.text);
    expect(ids).toEqual(poem.output_ids);
    expect(finish).toMatchObject({
      finishReason: "stop",
      usage: { promptTokens: poem.prompt_ids.length, completionTokens: poem.output_ids.length },
    });
    expect(finish.timings.prefill + finish.timings.decode).toBeGreaterThan(0);
  });

  it("takes ids, segments and text", async () => {
    const fromIds = await collect(engine.generate(poem.prompt_ids, GREEDY));
    const segments = [
      { kind: "template" as const, text: "<|begin_of_sentence|>User: " },
      { kind: "user" as const, text: "背誦李白《靜夜思》" },
      { kind: "template" as const, text: "\nAssistant: " },
    ];
    const fromSegments = await collect(engine.generate(segments, GREEDY));
    expect([fromIds.text, fromSegments.text]).toEqual([poem.text, poem.text]);
    // As plain text the special token is just letters.
    const asText = engine.tokenize("<|begin_of_sentence|>");
    expect(asText.length).toBeGreaterThan(1);
    expect(engine.detokenize(asText)).toBe("<|begin_of_sentence|>");
  });

  it("never cuts a character in two", async () => {
    const { pieces } = await collect(engine.chat(POEM, GREEDY));
    for (const { text } of pieces) expect(text).not.toContain("\ufffd");
  });

  it("ends at maxTokens, at stop strings and at stop ids", async () => {
    const short = await collect(engine.chat(POEM, { ...GREEDY, maxTokens: 5 }));
    expect(short.ids).toEqual(poem.output_ids.slice(0, 5));
    expect(short.finish.finishReason).toBe("length");
    const stop = poem.text.slice(6, 8);
    const cut = await collect(engine.chat(POEM, { ...GREEDY, stop }));
    expect(cut.text).toBe(poem.text.slice(0, poem.text.indexOf(stop)));
    expect(cut.finish.finishReason).toBe("stop");
    const atId = await collect(engine.chat(POEM, { ...GREEDY, stopIds: [poem.output_ids[3] as number] }));
    expect(atId.ids.length).toBe(poem.output_ids.indexOf(poem.output_ids[3] as number) + 1);
    expect(atId.finish.finishReason).toBe("stop");
  });

  it("samples the same for the same seed, differently for another", async () => {
    const options = { temperature: 1.5, maxTokens: 24, minTokens: 24 };
    const run = async (seed: number) => (await collect(engine.generate("The ", { ...options, seed }))).ids;
    const first = await run(7);
    expect(await run(7)).toEqual(first);
    expect(await run(8)).not.toEqual(first);
    expect(first.length).toBe(24);
  });

  it("gives log probabilities of the tokens and of the best ones", async () => {
    const { pieces } = await collect(engine.chat(POEM, { ...GREEDY, maxTokens: 4, logprobs: 3 }));
    const entries = pieces.flatMap((piece) => piece.logprobs ?? []);
    expect(entries.length).toBe(4);
    for (const { id, logprob, top } of entries) {
      expect(top.length).toBe(3);
      expect(top[0]).toEqual({ id, logprob });
      expect(top.map((entry) => entry.logprob)).toEqual(top.map((entry) => entry.logprob).sort((a, b) => b - a));
      expect(Math.exp(logprob)).toBeLessThanOrEqual(1);
    }
  });

  it("times the kernels of a step while others are answered, and the answer stays the same", async () => {
    const answered = collect(engine.chat(POEM, GREEDY));
    const [decode, prefill] = await Promise.all([engine.profile(), engine.profile({ batch: 2, rows: 9, context: 40 })]);
    expect((await answered).text).toBe(poem.text);
    for (const { stepUs, kernels } of [decode, prefill]) {
      expect(stepUs).toBeGreaterThan(0);
      expect(new Set(kernels.map(({ kernel }) => kernel)).size).toBe(kernels.length);
      expect(kernels.every(({ launches, us }) => launches > 0 && us >= 0)).toBe(true);
    }
    await expect(engine.profile({ batch: engine.info.maxBatch + 1 })).rejects.toThrow(/batch is \d+, expected 1 to/);
  });

  it("prefills only what is new in the second turn", async () => {
    const filler = "In the beginning God created the heaven and the earth. ".repeat(12);
    const first = await collect(engine.chat([{ role: "user", content: filler }], { ...GREEDY, maxTokens: 40, minTokens: 40 }));
    const second = await collect(
      engine.chat(
        [
          { role: "user", content: filler },
          { role: "assistant", content: first.text },
          { role: "user", content: "And then?" },
        ],
        { ...GREEDY, maxTokens: 2 },
      ),
    );
    // All of the first turn but its last token, whose keys and values were never needed.
    const { promptTokens, completionTokens } = first.finish.usage;
    expect(second.finish.usage.cachedTokens).toBeGreaterThanOrEqual(promptTokens + completionTokens - 1);
    expect(second.finish.usage.promptTokens - second.finish.usage.cachedTokens).toBeLessThan(24);
  });

  it("forbids and forces tokens by bias", async () => {
    const first = poem.output_ids[0] as number;
    const without = await collect(engine.chat(POEM, { ...GREEDY, maxTokens: 1, logitBias: { [first]: -1000 } }));
    expect(without.ids).not.toContain(first);
    const forced = await collect(engine.chat(POEM, { ...GREEDY, maxTokens: 3, logitBias: { 300: 1000 } }));
    expect(forced.ids).toEqual([300, 300, 300]);
  });
});

describe("cancelling", () => {
  it("by signal, before and during", async () => {
    const early = await collect(engine.chat(POEM, { ...GREEDY, signal: AbortSignal.abort() }));
    expect(early.finish.finishReason).toBe("cancelled");
    const controller = new AbortController();
    const pieces: Piece[] = [];
    let reason: string | undefined;
    for await (const piece of engine.generate("The ", { ...GREEDY, maxTokens: 2000, minTokens: 2000, signal: controller.signal })) {
      pieces.push(piece);
      if (pieces.length === 3) controller.abort();
      if ("finishReason" in piece) reason = piece.finishReason;
    }
    expect(reason).toBe("cancelled");
    expect(pieces.length).toBeLessThan(1000);
  });

  it("by leaving the loop; blocks come back", async () => {
    const before = await settledFreeBlocks();
    for await (const piece of engine.generate("The ", { ...GREEDY, maxTokens: 2000, minTokens: 2000 })) if (piece.ids.length > 0) break;
    expect(await settledFreeBlocks()).toBe(before);
  });

  async function settledFreeBlocks(): Promise<number> {
    let free = -1;
    for (let i = 0; i < 100; i++) {
      const now = engine.info.kvFreeBlocks;
      if (now === free && i > 10) return now;
      free = now;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return free;
  }
});

describe("bad input", () => {
  it.each([
    [{ temperature: -1 }, "temperature"],
    [{ temperature: Number.NaN }, "temperature"],
    [{ topP: 0 }, "topP"],
    [{ topP: 1.1 }, "topP"],
    [{ topK: 1.5 }, "topK"],
    [{ minP: 2 }, "minP"],
    [{ repetitionPenalty: 0 }, "repetitionPenalty"],
    [{ maxTokens: 0 }, "maxTokens"],
    [{ maxTokens: "many" }, "maxTokens"],
    [{ logprobs: 21 }, "logprobs"],
    [{ seed: -1 }, "seed"],
    [{ stop: "" }, "stop"],
    [{ stopIds: [-1] }, "stopIds[0]"],
    [{ logitBias: { x: 1 } }, 'logitBias["x"]'],
    [{ temprature: 1 }, "temprature"],
  ])("refuses %j", async (options, place) => {
    const run = async () => collect(engine.generate("x", options as GenerateOptions));
    await expect(run()).rejects.toThrow(expect.objectContaining({ code: "generate-option", place }));
  });

  it.each([
    [[], "invalid-argument"],
    ["", "invalid-argument"],
    [[8192], "generate-option"],
    [[-1], "generate-option"],
    [[1.5], "generate-option"],
    [null, "generate-option"],
  ])("refuses the prompt %j", async (prompt, code) => {
    const run = async () => collect(engine.generate(prompt as string));
    await expect(run()).rejects.toThrow(expect.objectContaining({ code }));
  });

  it("refuses a prompt longer than the context, and goes on working", async () => {
    const long = new Array<number>(engine.info.maxContext + 1).fill(300);
    await expect(collect(engine.generate(long))).rejects.toThrow(/context|longer/);
    await expect(engine.logits(long)).rejects.toThrow(/expected at most/);
    expect((await collect(engine.chat(POEM, GREEDY))).text).toBe(poem.text);
  });

  it("stops with `length` at the end of the context", async () => {
    const ids = new Array<number>(engine.info.maxContext - 3).fill(300);
    const { finish } = await collect(engine.generate(ids, { ...GREEDY, minTokens: 100 }));
    expect(finish.finishReason).toBe("length");
    expect(finish.usage.completionTokens).toBeLessThanOrEqual(4);
  });
});

describe("ends", () => {
  it("refuses work after dispose, and disposes twice", async () => {
    const own = await loadFrom(folder);
    await own.dispose();
    await own.dispose();
    await expect(collect(own.generate("x"))).rejects.toThrow(expect.objectContaining({ code: "engine-disposed" }));
    expect(() => own.tokenize("x")).toThrow(expect.objectContaining({ code: "engine-disposed" }));
  });

  it("cancels what runs when disposed of", async () => {
    const own = await loadFrom(folder);
    const running = collect(own.generate("The ", { ...GREEDY, maxTokens: 3000, minTokens: 3000 }));
    await new Promise((resolve) => setTimeout(resolve, 50));
    await own.dispose();
    expect((await running).finish.finishReason).toBe("cancelled");
  });

  it("is an async disposable", async () => {
    const own = await loadFrom(folder);
    await own[Symbol.asyncDispose]();
    expect(() => own.tokenize("x")).toThrow();
  });

  const script = (body: string) => `
    import { load } from ${JSON.stringify(pathToFileURL(join(folder, "index.js")).href)};
    const POEM = [{ role: "user", content: "背誦李白《靜夜思》" }];
    const text = async (pieces) => { let all = ""; for await (const piece of pieces) all += piece.text; return all; };
    ${body}`;
  const runScript = (body: string, ...flags: string[]) =>
    execa(process.execPath, [...flags, "--input-type=module", "-e", script(body)], { reject: false, timeout: 60_000 });

  it("leaves in mid-generation without a crash", async () => {
    const result = await runScript(`
      const engine = await load();
      let n = 0;
      for await (const piece of engine.generate("The ", { maxTokens: 3000, minTokens: 3000 })) if (++n === 3) process.exit(7);`);
    expect([result.exitCode, result.signal ?? null]).toEqual([7, null]);
  });

  it("lets a process end by itself when nothing runs, though nobody disposed", async () => {
    const result = await runScript("const engine = await load(); console.log(await text(engine.chat(POEM, { temperature: 0 })));");
    expect([result.exitCode, result.stdout]).toEqual([0, poem.text]);
  });

  it("survives being forgotten by the garbage collector", async () => {
    const result = await runScript(
      `for (let i = 0; i < 4; i++) {
         const engine = await load();
         await text(engine.chat(POEM, { temperature: 0, maxTokens: 3 }));
         engine.generate("The ", { maxTokens: 50 })[Symbol.asyncIterator]().next();
         global.gc();
         await new Promise((resolve) => setTimeout(resolve, 20));
         global.gc();
       }
       console.log("alive");
       process.exit(0);`,
      "--expose-gc",
    );
    expect([result.exitCode, result.stdout]).toEqual([0, "alive"]);
  });

  it("works in several Worker threads at once, and when one is terminated", async () => {
    const result = await runScript(`
      import { Worker } from "node:worker_threads";
      const source = \`
        import { parentPort } from "node:worker_threads";
        import { load } from ${JSON.stringify(pathToFileURL(join(folder, "index.js")).href)};
        const engine = await load({ threads: 1 });
        let all = "";
        for await (const piece of engine.chat([{ role: "user", content: "背誦李白《靜夜思》" }], { temperature: 0 })) all += piece.text;
        parentPort.postMessage(all);
        for await (const piece of engine.generate("The ", { maxTokens: 3000, minTokens: 3000 })) {}
      \`;
      const workers = [1, 2, 3].map(() => new Worker(new URL("data:text/javascript," + encodeURIComponent(source))));
      const answers = await Promise.all(workers.map((worker) => new Promise((resolve, reject) => { worker.once("message", resolve); worker.once("error", reject); })));
      await Promise.all(workers.map((worker) => worker.terminate()));
      console.log(JSON.stringify(answers));`);
    expect([result.exitCode, result.stderr]).toEqual([0, ""]);
    expect(JSON.parse(result.stdout)).toEqual([poem.text, poem.text, poem.text]);
  });

  it("is the same through require()", async () => {
    const code = `const { load } = require(${JSON.stringify(join(folder, "index.cjs"))});
      load().then(async (engine) => { let all = ""; for await (const piece of engine.chat([{ role: "user", content: "背誦李白《靜夜思》" }], { temperature: 0 })) all += piece.text; console.log(all); await engine.dispose(); });`;
    const result = await execa(process.execPath, ["--input-type=commonjs", "-e", code], { reject: false, timeout: 60_000 });
    expect([result.exitCode, result.stdout]).toEqual([0, poem.text]);
  });
});
