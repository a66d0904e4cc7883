/**
 * The C++ runtime over a model made for tests (fake_plan.hpp): compiles the native tests with the optimiser and with the sanitizers, and runs them.
 * SANITIZE=thread runs them all under ThreadSanitizer instead.
 */

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { beforeAll, describe, expect, it } from "vitest";
import { buildNative, root, sanitizers } from "./build-native.js";

const runtime = readdirSync(join(root, "runtime/src"))
  .filter((name) => name.endsWith(".cpp"))
  .map((name) => `runtime/src/${name}`);
const parts = ["kv_pool", "sampler", "threads", "memory", "control_groups", "cpu_check"].map((name) => `runtime/src/${name}.cpp`);

const SANITIZED = sanitizers ? [] : ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

function build(test: string, flags: readonly string[]): Promise<string> {
  const small = ["kv_pool", "sampler", "runtime_parts"].includes(test);
  return buildNative({
    name: `${test}-test`,
    sources: [`test/native/${test}_test.cpp`, ...(small ? parts : runtime)],
    flags: ["-ffp-contract=off", ...flags],
  });
}

async function run(binary: string, ...args: string[]): Promise<string> {
  const result = await execa(binary, args, { reject: false, all: true, timeout: 120_000 });
  expect(result.exitCode, result.all).toBe(0);
  return result.stdout;
}

/** Test programs, and the cases that each takes by name. `exit` ends the process in mid-generation. */
const ENGINE_CASES = {
  engine: ["solo", "limits", "stops", "logprobs", "destroy", "several-engines", "threads", "information", "exit"],
  batching: ["batching", "batching-sampled", "stalled-pool", "prefix-reuse"],
  logits: ["logits"],
};

describe.each([
  { name: "optimised", flags: [] },
  ...(sanitizers ? [] : [{ name: "under the address and undefined-behaviour sanitizers", flags: SANITIZED }]),
  // As on a GPU: the next step begins before the host has seen the token of the last one.
  { name: "running ahead", flags: sanitizers ? ["-DERN_RUN_AHEAD"] : ["-DERN_RUN_AHEAD", ...SANITIZED] },
])("engine, $name", ({ flags }) => {
  describe.each(Object.entries(ENGINE_CASES))("%s", (test, cases) => {
    let binary = "";
    beforeAll(async () => {
      binary = await build(test, flags);
    });
    it.each(cases)("%s", async (name) => {
      expect(await run(binary, name)).toBe(name);
    });
  });
});

describe("runtime, under the sanitizers", () => {
  it.each([
    ["kv_pool", "the KV pool keeps its account, and finds prefixes"],
    ["sampler", "the sampler does what it says"],
    ["runtime_parts", "threads, CPU check, made-up weights, memory"],
    ["package", "packages load when whole, and are refused when not"],
    ["api", "the C interface, with text"],
    ["fault", "memory may run out anywhere"],
  ])("%s: %s", async (test) => {
    await run(await build(test, SANITIZED));
  });

  it("fault: memory may run out anywhere, with two steps under way too", async () => {
    await run(await build("fault", [...SANITIZED, "-DERN_RUN_AHEAD"]));
  });
});

describe("loader fuzzing", () => {
  it("survives the kept corpus, and damaged forms of it", async () => {
    const binary = await buildNative({
      name: "loader-fuzz",
      sources: ["test/fuzz/loader_fuzz.cpp", "test/fuzz/replay.cpp", ...runtime],
      flags: ["-ffp-contract=off", ...SANITIZED],
    });
    await run(binary, join(root, "test/fuzz/corpus/loader"));
  });
});
