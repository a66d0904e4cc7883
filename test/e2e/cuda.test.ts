/**
 * GPU packages without a GPU: kernels of all forms compile for every arch, and the whole path of the engine runs over a stand-in driver (test/fake-cuda), which
 * holds each call to the driver's rules, fails where it is told to, and counts what is left behind.
 */

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { beforeAll, describe, expect, it } from "vitest";
import type { StepProfile } from "../../src/host/api.js";
import { installCuda } from "../../src/toolchain/cuda-install.js";
import { findNvcc } from "../../src/toolchain/nvcc.js";
import { findTriton } from "../../src/toolchain/triton.js";
import { buildDriver } from "../fake-cuda/driver.js";
import { buildPackage, cli, cliOk, GOLDENS, ROOT, WORK } from "./support.js";

const DRIVER = join(WORK, "driver");
const SMALL = ["--target", "cuda", "--max-batch", "4", "--prefill-chunk", "64", "--max-context", "256"];

interface Outcome {
  readonly value?: unknown;
  readonly error?: { readonly code: string; readonly kind: string; readonly message: string; readonly hint: string | null };
}

interface Report {
  readonly live: { readonly [what: string]: number };
  readonly calls: { readonly [call: string]: number };
  readonly launches: { readonly [kernel: string]: number };
  readonly mistakes: readonly string[];
}

let number = 0;

/** Runs a case of drive.mjs in a process whose driver is ours. */
async function drive(folder: string, what: string, env: { readonly [name: string]: string } = {}) {
  const path = join(WORK, `report-${number++}.json`);
  const result = await execa(process.execPath, [join(ROOT, "test/fake-cuda/drive.mjs"), folder, what], {
    env: { LD_LIBRARY_PATH: DRIVER, FAKE_CUDA_REPORT: path, ...env },
    timeout: 60_000,
    reject: false,
    all: true,
  });
  expect(result.exitCode, result.all).toBe(0);
  const text = result.stdout.trim();
  const said = text === "" ? {} : (JSON.parse(text) as { load?: Outcome; result?: Outcome & { value?: never }; alive?: boolean });
  return { said, report: () => JSON.parse(readFileSync(path, "utf8")) as Report };
}

function expectNothingLeft({ live, mistakes }: Report): void {
  expect(mistakes).toEqual([]);
  expect(Object.entries(live).filter(([, count]) => count !== 0)).toEqual([]);
}

/** `next_id` of fake_cuda.hpp: what stands for a model. */
function continuation(last: number, count: number): number[] {
  const ids: number[] = [];
  for (let id = last; ids.length < count; ids.push(id)) id = 10 + ((id * 7 + 3) % 40);
  return ids;
}

const packages = { dense: "", moe: "" };

beforeAll(async () => {
  await findNvcc().catch(() => installCuda());
  await buildDriver(DRIVER);
  packages.dense = await buildPackage(join(GOLDENS, "dense"), ...SMALL, "--arch", "sm_90a");
  packages.moe = await buildPackage(join(GOLDENS, "moe"), ...SMALL, "--arch", "sm_90a");
}, 400_000);

describe("a package for a GPU", () => {
  it.each(["dense", "moe"] as const)("%s: runs on the driver alone", async (name) => {
    const { said, report } = await drive(packages[name], "works");
    const { alone, together, sampled, logits, traced, long, shared, info } = said.result?.value ?? ({} as never);
    expect(alone).toEqual(continuation(7, 12));
    expect(together).toEqual([1, 2, 3, 4, 5, 6].map((id) => continuation(id, 12)));
    expect(sampled).toHaveProperty("value");
    expect(logits).toEqual([3, 384]);
    expect(traced).toBeGreaterThan(3);
    expect(long).toEqual(continuation(149 % 40, 12));
    expect(shared).toEqual(continuation(3, 12));
    expect(info).toMatchObject({ target: "cuda", arch: "sm_90a", kvTokens: 512, kvBlockSize: 64 });
    expectNothingLeft(report());
    // Decoding is one call of the driver a step; a partly matching block is copied there.
    expect(report().calls.cuGraphLaunch).toBeGreaterThan(20);
    expect(report().calls.cuMemcpyDtoDAsync_v2).toBeGreaterThan(0);
  });

  it("is benched against what the GPU can do at most", async () => {
    const bench = async (env: { readonly [name: string]: string }, format: string) => {
      const args = ["bench", packages.moe, "-p", "40", "-n", "4", "-r", "1", "-b", "2", "--format", format];
      return await cliOk(args, { env: { LD_LIBRARY_PATH: DRIVER, FAKE_CUDA_REPORT: join(WORK, `report-${number++}.json`), ...env } });
    };
    const { stdout, stderr } = await bench({}, "json");
    expect(stderr).toMatch(/the GPU at most: copies [\d.]+ \wB\/s, bf16 products \d+ TFLOP\/s/);
    const [prefill, decode] = JSON.parse(stdout) as { bandwidthShare: number | null; matrixShare: number | null }[];
    expect(prefill).toMatchObject({ bandwidthShare: null, matrixShare: expect.any(Number) });
    expect(decode).toMatchObject({ bandwidthShare: expect.any(Number), matrixShare: null });
    // A machine that runs packages need not have a toolkit.
    const bare = await bench({ CUDA_HOME: "/nowhere" }, "md");
    expect(bare.stderr).toMatch(/no nvcc to measure products/);
    expect(bare.stdout).toMatch(/^\| model .* \| of bandwidth \| of matrix rate \|\n/);
  });

  it("shares weights between engines, and outlives one of them", async () => {
    const { said, report } = await drive(packages.dense, "twice");
    expect(said.result?.value).toEqual({ both: [continuation(7, 5), continuation(7, 5)], after: continuation(7, 5) });
    expectNothingLeft(report());
  });

  it("frees everything when it is disposed of in the middle of a step", async () => {
    const { said, report } = await drive(packages.dense, "cancels");
    expect(said.alive).toBe(true);
    expectNothingLeft(report());
  });

  it("times the kernels of a step, and nobody notices", async () => {
    const { said, report } = await drive(packages.moe, "profiles");
    const { decode, prefill, refused, ids, after } = said.result?.value ?? ({} as { [name: string]: never });
    expect(ids).toEqual(continuation(7, 40));
    expect(after).toEqual(continuation(7, 5));
    for (const profile of [decode, prefill] as unknown as Outcome[]) {
      const { stepUs, kernels } = profile.value as StepProfile;
      expect(stepUs).toBe(1000);
      // The stand-in says 1 ms of everything that it is asked to time.
      expect(kernels.every(({ launches, us }) => us === 1000 * launches)).toBe(true);
      expect(kernels.map(({ kernel }) => kernel)).toContain("draw_tokens");
    }
    const told = (refused as unknown as Outcome[]).map(({ error }) => `${error?.code}: ${error?.message}`);
    expect(told[0]).toMatch(/invalid-argument: batch is 5, expected 1 to 4/);
    expect(told[1]).toMatch(/generate-option: found 0/);
    expect(told[2]).toMatch(/invalid-argument: context is 1000, expected 1 to 256/);
    expect(told[3]).toMatch(/invalid-argument: context is 7/);
    expectNothingLeft(report());
  });

  it("lets a process exit with work under way", async () => {
    await drive(packages.dense, "exits");
  });
});

describe("kernels in Triton", () => {
  const table = join(WORK, "triton.json");
  const ops = ["linear", "linear_swiglu"];
  const build = (name: string, python: string) =>
    cli(["build", join(GOLDENS, "dense"), ...SMALL, "--arch", "sm_90a", "--tuning", table, "-o", join(WORK, name)], {
      env: { ERNIE_COMPILE_PYTHON: python },
    });

  beforeAll(async () => {
    const winner = { kernel: "cuda_triton_gemm", params: {}, seconds: 1e-5 };
    const rows = ops.map((op) => ({ op, problem: { x: "bf16" }, layouts: { weight: "row" }, rows: 64, winner }));
    writeFileSync(table, JSON.stringify({ device: "sm_90a", rows }));
  });

  it("are compiled where a measurement chose them, and run through the same driver", async () => {
    const found = await findTriton();
    const python = typeof found === "string" ? (await installCuda()).python : found.python;
    const { exitCode, stderr } = await build("triton", python);
    expect(exitCode, stderr).toBe(0);
    expect(stderr).not.toMatch(/triton-missing/);
    const { said, report } = await drive(join(WORK, "triton"), "works");
    expect(said.result?.value).toMatchObject({ alone: continuation(7, 12) });
    expectNothingLeft(report());
    const launched = Object.keys(report().launches).filter((name) => name.endsWith("_triton"));
    expect(ops.every((op) => launched.some((name) => name.startsWith(op)))).toBe(true);
  }, 400_000);

  it("make way for CUDA's where there is no Triton, which is said", async () => {
    const { exitCode, stderr } = await build("no-triton", join(WORK, "no-python"));
    expect(exitCode, stderr).toBe(0);
    expect(stderr).toMatch(/triton-missing: measurements choose Triton's kernel for linear, linear_swiglu, .*no-python has none/);
    const { said } = await drive(join(WORK, "no-triton"), "works");
    expect(said.result?.value).toMatchObject({ alone: continuation(7, 12) });
  });

  it("say what Triton said", async () => {
    const python = join(WORK, "failing-triton");
    writeFileSync(python, '#!/bin/sh\n[ "$1" = -c ] && { echo 3.6.99; exit 0; }\necho "error: out of tiles" >&2\nexit 4\n', {
      mode: 0o755,
    });
    const { exitCode, stderr } = await build("triton-fails", python);
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(/triton-failed: Triton 3\.6\.99 did not make .*cubin \(exit 4\)\n.*out of tiles/);
  });
});

describe("where it can't run", () => {
  const refused: readonly (readonly [string, { readonly [name: string]: string }, string, RegExp])[] = [
    ["without a driver", { LD_LIBRARY_PATH: join(WORK, "no-driver") }, "unsupported", /libcuda\.so\.1 can't be opened/],
    [
      "with a driver that is too old",
      { FAKE_CUDA_VERSION: "11080" },
      "unsupported",
      /knows CUDA 11\.8, and this package needs .* 12\.4 or newer/,
    ],
    ["without a GPU", { FAKE_CUDA_CAPABILITY: "" }, "unsupported", /finds no GPU/],
    ["on another GPU", { FAKE_CUDA_CAPABILITY: "8.0" }, "unsupported", /compiled for sm_90a.*found Fake GPU \(8\.0\)/],
    ["where the driver refuses the code", { FAKE_CUDA_FAIL: "cuModuleLoadData:1:209" }, "unsupported", /refuses the package's code/],
    [
      "where others have the memory",
      { FAKE_CUDA_TAKEN: "1000" },
      "out-of-memory",
      /takes .* MiB of GPU memory \(weights .*KV cache of 256 tokens .* 24 MiB free of 1024 MiB/,
    ],
    ["with little memory", { FAKE_CUDA_FAIL: "cuMemAlloc_v2:1:2" }, "out-of-memory", /no memory left for the weights/],
  ];
  it.each(refused)("%s", async (_, env, code, message) => {
    mkdirSync(join(WORK, "no-driver"), { recursive: true });
    // The system's own, if it has one, must not be found instead.
    writeFileSync(join(WORK, "no-driver", "libcuda.so.1"), "no library");
    const { said, report } = await drive(packages.dense, "generates", env);
    expect(said.load?.error).toMatchObject({ code });
    expect(said.load?.error?.message).toMatch(message);
    if (!env.LD_LIBRARY_PATH) expectNothingLeft(report());
  });

  it("takes the GPU that it was compiled for", async () => {
    const { said } = await drive(packages.dense, "generates", { FAKE_CUDA_CAPABILITY: "8.0,9.0" });
    expect(said.result?.value).toMatchObject({ second: { value: continuation(7, 40) } });
  });
});

describe("when the driver fails", () => {
  // 2: out of memory; 700 stays: every later call fails as well.
  const LOADING = [
    "cuDeviceGetCount",
    "cuDevicePrimaryCtxRetain",
    "cuStreamCreate",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
  ];
  const MEMORY = ["cuMemGetInfo_v2", "cuMemAlloc_v2", "cuMemHostAlloc", "cuMemcpyHtoDAsync_v2", "cuEventCreate", "cuEventRecord"];
  it.each([...LOADING, ...MEMORY, "cuMemsetD8Async"].flatMap((call) => [2, 700].map((error) => [call, error] as const)))(
    "%s with %i while it loads, nothing is left",
    async (call, error) => {
      const { said, report } = await drive(packages.dense, "generates", { FAKE_CUDA_FAIL: `${call}:1:${error}` });
      expect(said.load?.error?.message).toMatch(/the GPU failed in|GPU memory|GPU has no memory|pinned memory|driver/);
      expect(said.load?.error?.kind).not.toBe("bug");
      expectNothingLeft(report());
    },
  );

  it.each([
    ["cuLaunchKernelEx", 5],
    ["cuStreamBeginCapture_v2", 1],
    ["cuStreamEndCapture", 1],
    ["cuGraphInstantiateWithFlags", 1],
    ["cuGraphLaunch", 3],
    ["cuEventSynchronize", 3],
    ["cuTensorMapEncodeTiled", 1],
  ] as const)("%s in the middle: the engine ends, the process lives on", async (call, at) => {
    const { said, report } = await drive(packages.dense, "generates", { FAKE_CUDA_FAIL: `${call}:${at}:700` });
    const { first, second, logits } = said.result?.value ?? ({} as { first: Outcome[]; second: Outcome; logits: Outcome });
    const errors = [...first, second, logits].flatMap(({ error }) => error ?? []);
    expect(errors.length).toBeGreaterThan(1);
    for (const { message } of errors) expect(message).toMatch(/the GPU failed in .*CUDA_ERROR_ILLEGAL_ADDRESS/);
    expect(second.error).toMatchObject({ code: "device", kind: "environment" });
    expect(second.error?.hint).toMatch(/started again/);
    expect(said.alive).toBe(true);
    expectNothingLeft(report());
  });
});

describe("a decode step in one launch", () => {
  const folder = join(WORK, "wide");
  /** As many as the smallest model for it has: a launch with that many pointers is what the runtime must take. */
  const LAYERS = 18;
  let wide = "";

  beforeAll(async () => {
    mkdirSync(folder, { recursive: true });
    const config = JSON.parse(readFileSync(join(GOLDENS, "dense", "config.json"), "utf8")) as object;
    const sizes = { hidden_size: 1024, intermediate_size: 1024, num_attention_heads: 16, head_dim: 128, num_hidden_layers: LAYERS };
    writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, ...sizes }));
    wide = await buildPackage(folder, ...SMALL, "--arch", "sm_90a", "--weights", "synthetic:1", "--decode", "persistent");
  }, 400_000);

  it("is all that a step of few sequences launches", async () => {
    const { said, report } = await drive(wide, "generates");
    expect(said.result?.value).toMatchObject({ second: { value: continuation(7, 40) } });
    const { launches } = report();
    expect(Object.keys(launches).filter((name) => name.startsWith("persistent_decode"))).toContain(
      `persistent_decode_l${LAYERS}_w1024_f1024_s1`,
    );
    // Decode has no other.
    expect(Object.keys(launches).some((name) => name.startsWith("rope_attention"))).toBe(false);
    expectNothingLeft(report());
  });

  it("is taken where it was measured to be faster and the GPU can run it, else its launches are", async () => {
    const table = join(folder, "table.json");
    const sizes = { layers: LAYERS, hidden: 1024, heads: 16, kv_heads: 2, head_dim: 128, ffn: 1024, vocab: 384, x: "bf16" };
    const winner = { kernel: "persistent", params: { pace: 1000 }, seconds: 1e-4 };
    const row = { op: "step_decode", problem: { ...sizes, tied: true, sequences: 1 }, layouts: {}, rows: 1, winner };
    writeFileSync(table, JSON.stringify({ device: "sm_90a", rows: [row] }));
    const both = await buildPackage(folder, ...SMALL, "--arch", "sm_90a", "--weights", "synthetic:1", "--tuning", table);
    const launched = async (env: { readonly [name: string]: string }) => {
      const { said, report } = await drive(both, "generates", env);
      expect(said.result?.value).toMatchObject({ second: { value: continuation(7, 40) } });
      expectNothingLeft(report());
      return Object.keys(report().launches).some((name) => name.startsWith("persistent_decode"));
    };
    expect(await launched({})).toBe(true);
    expect(await launched({ FAKE_CUDA_MULTIPROCESSORS: "114" })).toBe(false);
  }, 200_000);

  it("is refused by a GPU that cannot run all its blocks at once", async () => {
    const { said, report } = await drive(wide, "generates", { FAKE_CUDA_MULTIPROCESSORS: "114" });
    expect(said.load?.error).toMatchObject({ code: "unsupported" });
    expect(said.load?.error?.message).toMatch(/wants 128 blocks to run at once, and Fake GPU has 114 multiprocessors/);
    expectNothingLeft(report());
  });
});

describe("a build for a GPU", () => {
  it("compiles every kernel for sm_80 too", async () => {
    for (const model of ["dense-bias-untied", "moe-no-shared-untied"]) {
      const folder = await buildPackage(join(GOLDENS, model), ...SMALL, "--arch", "sm_80");
      const { said, report } = await drive(folder, "generates", { FAKE_CUDA_CAPABILITY: "8.6" });
      expect(said.result?.value).toHaveProperty("second.value");
      expect(report().mistakes).toEqual([]);
    }
  }, 300_000);

  it("runs with fusions left out", async () => {
    const disabled = ["fuse-norm", "fuse-residual", "fuse-rope-attention", "fuse-moe"].flatMap((name) => ["--disable-pass", name]);
    const folder = await buildPackage(join(GOLDENS, "moe"), ...SMALL, "--arch", "sm_90a", ...disabled);
    const { said, report } = await drive(folder, "generates");
    expect(said.result?.value).toMatchObject({ second: { value: continuation(7, 40) } });
    expect(report().mistakes).toEqual([]);
  }, 300_000);

  it("says what nvcc said", async () => {
    const folder = join(WORK, "toolkit", "bin");
    mkdirSync(folder, { recursive: true });
    const nvcc = (text: string) => writeFileSync(join(folder, "nvcc"), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
    const build = () =>
      cli(["build", join(GOLDENS, "dense"), ...SMALL, "--arch", "sm_90a", "-o", join(WORK, "failing"), "--cuda", join(WORK, "toolkit")]);
    nvcc("echo release 11.8, V11.8.89");
    expect((await build()).stderr).toMatch(/nvcc-too-old: found nvcc 11\.8\.89, expected 12\.4 or newer/);
    nvcc('[ "$1" = --version ] && { echo release 13.0, V13.0.1; exit 0; }; echo "error: out of ideas" >&2; exit 3');
    const failed = await build();
    expect(failed.exitCode).toBe(1);
    expect(failed.stderr).toMatch(/nvcc-failed: nvcc 13\.0\.1 did not make .*cubin \(exit 3\)\n.*out of ideas/);
  });

  it("says what pip said", async () => {
    const python = join(WORK, "python");
    writeFileSync(python, "#!/bin/sh\necho 'No module named venv' >&2\nexit 1\n", { mode: 0o755 });
    const { exitCode, stderr } = await cli(["toolchain", "install", "cuda", "--python", python], {
      env: { ERNIE_COMPILE_CACHE: join(WORK, "cache") },
    });
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(/cuda-install-failed: -m venv failed: exit 1\nNo module named venv/);
  });
});
