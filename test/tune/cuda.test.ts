/** Tuning for GPUs: tasks and spaces of all kernels, and the whole way of a measurement and of a sweep over the stand-in driver. No GPU is needed. */

import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadModel } from "../../src/frontend/load-model.js";
import { resolveRequest } from "../../src/frontend/model-json.js";
import { checkLaunch } from "../../src/kernels/cuda-launch.js";
import { kernelFunctions } from "../../src/kernels/kernel-def.js";
import { kernelGraphs } from "../../src/lower.js";
import type { ArchLevel } from "../../src/toolchain/arch.js";
import { Cache } from "../../src/toolchain/cache.js";
import { findCompiler } from "../../src/toolchain/compiler.js";
import { installCuda } from "../../src/toolchain/cuda-install.js";
import { findNvcc } from "../../src/toolchain/nvcc.js";
import type { Backend } from "../../src/tune/backend.js";
import { gpuClass } from "../../src/tune/gpu.js";
import { Harness } from "../../src/tune/harness.js";
import { openCuda } from "../../src/tune/local-cuda.js";
import { modelTasks } from "../../src/tune/model-tasks.js";
import { predictSeconds, predictSpace } from "../../src/tune/predict.js";
import type { Machine } from "../../src/tune/records.js";
import type { Configuration } from "../../src/tune/space.js";
import { rowsOfRecords } from "../../src/tune/tables.js";
import {
  defaultVariant,
  indexOf,
  kernelOf,
  kernelsOf,
  paramsOf,
  parseTask,
  parseVariant,
  type Task,
  taskSpace,
  variantAt,
  variantKey,
} from "../../src/tune/task.js";
import { buildCudaHarness, compileFill, type RenderVariant, renderCudaVariant } from "../../src/tune/variants.js";
import { cli, MODELS, WORK } from "../e2e/support.js";
import { buildDriver } from "../fake-cuda/driver.js";

const ARCH = "sm_90a";
const DRIVER = join(WORK, "driver");
const CACHE = join(WORK, "cache");
const DENSE = join(MODELS, "ernie-mini-dense");

async function tasksOf(model: string, batches: readonly number[], tokens: readonly number[]): Promise<readonly Task[]> {
  const request = await resolveRequest(model, { target: "cuda", arch: ARCH, dryRun: true });
  const { weights } = await loadModel(request);
  const limits = { ...request.limits, maxBatch: Math.max(...batches), prefillChunk: Math.max(...tokens) };
  return modelTasks(kernelGraphs({ ...request, limits, weights, arch: ARCH, tuning: undefined }), { batches, tokens }, ARCH);
}

function task(key: string): Task {
  const found = parseTask(key);
  if (!found) throw new Error(`no task: ${key}`);
  return found;
}

describe("the tasks of a model on a GPU", () => {
  it("are of each bucket's own kernels and fusions", async () => {
    const lines = (await tasksOf(join(MODELS, "ernie-mini-moe"), [1, 16, 64], [512])).map((entry) => {
      const fused = ["norm", "residual"].filter((name) => entry.problem[name] === true);
      const names = kernelsOf(entry, ARCH).map(({ name }) => name);
      return [entry.op, ...fused, `x${entry.rows}:`, names.join(" or "), taskSpace(entry, ARCH).size].join(" ");
    });
    expect([...new Set(lines)].sort().join("\n")).toMatchSnapshot();
  });

  it("have keys that give them back, and variants too", async () => {
    const tasks = await Promise.all([DENSE, join(MODELS, "ernie-mini-moe")].map((model) => tasksOf(model, [1, 16, 32, 64], [512])));
    for (const entry of tasks.flat()) {
      const { launches: _, ...rest } = entry;
      expect(parseTask(entry.key)).toEqual(rest);
      const space = taskSpace(entry, ARCH);
      for (const index of [0, space.size - 1]) {
        const variant = variantAt(entry, space, index);
        expect(indexOf(space, variant)).toBe(index);
        expect(parseVariant(entry, variantKey(variant))).toEqual({ ...variant });
      }
    }
    const key = "projection/cuda_linear_x1 bias=false k=64 n=64 out=f32 residual=true weight_dtype=bf16 x=bf16 weight@=row rows=1";
    expect(parseTask(key)).toBeDefined();
    for (const bad of [
      key.replace("residual=true", "residual=false"),
      key.replace("n=64", "eps=0.1 n=64"),
      key.replace("n=64", "n=64 norm=true"),
      "linear/linear bias=false k=64 n=128 out=f32 residual=true weight_dtype=bf16 x=bf16 weight@=panel64 rows=1",
    ])
      expect(parseTask(bad)).toBeUndefined();
  });

  it("ask for no more than a device gives, in any variant", async () => {
    for (const model of ["ernie-4.5-0.3b", "ernie-4.5-21b-a3b"]) {
      for (const entry of await tasksOf(model, [1, 2, 8, 16, 32, 64], [2048])) {
        const space = taskSpace(entry, ARCH);
        const sizes = { tokens: entry.rows, sequences: entry.rows, rows: entry.rows };
        const names = new Set<string>();
        for (let i = 0; i < space.size; i++) {
          const variant = variantAt(entry, space, i);
          const kernel = kernelOf(entry, variant);
          const params = { ...paramsOf(entry, variant), rows: "tokens" };
          names.add(kernel.file(params));
          for (const { name, phase } of kernelFunctions(kernel, params))
            if (kernel.launch) checkLaunch(name, kernel.launch(params, phase?.suffix ?? ""), sizes);
        }
        // A package has a file a kernel, and files of two variants in one program must not be one.
        expect(names.size, entry.key).toBe(space.size);
      }
    }
  });
});

describe("a space of several kernels", () => {
  const KEY = "linear/cuda_linear_x16 bias=false k=256 n=512 out=f32 weight_dtype=bf16 x=bf16 weight@=row rows=16";

  it("has the variants of each, and the table says which kernel won", () => {
    const given = task(KEY);
    const space = taskSpace(given, ARCH);
    const kernels = new Set(Array.from({ length: space.size }, (_, i) => kernelOf(given, variantAt(given, space, i)).name));
    expect([...kernels].sort()).toEqual(["cuda_gemm", "cuda_linear_x16"]);
    expect(taskSpace(given, "sm_80").parameters.map(({ name }) => name)).not.toContain("kernel");
    const standard = defaultVariant(given);
    const other = { kernel: "cuda_gemm", tile_rows: 128, columns: 64, stages: 4, turns: 1, cluster: 1 };
    expect(indexOf(space, standard)).toBeDefined();
    expect(indexOf(space, other)).toBeDefined();
    const times = (ratio: number) => ({
      seconds: 1e-5 * ratio,
      low: 1e-5 * ratio,
      high: 1e-5 * ratio,
      ratio,
      ratioLow: ratio,
      ratioHigh: ratio,
    });
    const { op, kernel, problem, layouts, rows } = given;
    const [row] = rowsOfRecords([
      {
        kind: "task",
        task: KEY,
        op,
        kernel: kernel.name,
        problem,
        layouts,
        rows,
        device: "d",
        space: { parameters: space.parameters, size: space.size },
        default: standard,
        cost: { bytes: 1, operations: 1 },
      },
      {
        kind: "final",
        task: KEY,
        elapsed: 1,
        variants: [
          { variant: standard, ...times(1) },
          { variant: other, ...times(0.7) },
        ],
      },
    ]);
    const { kernel: _, ...params } = other;
    expect(row).toMatchObject({ winner: { kernel: "cuda_gemm", params }, default: { kernel: "cuda_linear_x16", params: standard } });
    expect(row?.winner.params).not.toHaveProperty("kernel");
  });
});

describe("a prediction", () => {
  it("is the same every time, never leaves the default out, and is of different variants", async () => {
    for (const entry of await tasksOf("ernie-4.5-0.3b", [1, 16, 64], [2048])) {
      const space = taskSpace(entry, ARCH);
      const standard = indexOf(space, defaultVariant(entry)) as number;
      const { first, hopeless } = predictSpace(entry, space, defaultVariant(entry), ARCH, 4, 1);
      expect(first).toEqual(predictSpace(entry, space, defaultVariant(entry), ARCH, 4, 1).first);
      expect(new Set(first).size).toBe(first.length);
      expect(hopeless(standard)).toBe(false);
      expect(first.some(hopeless)).toBe(false);
    }
  });

  it("knows that tiles which leave the device idle take longer", () => {
    const given = task("linear/cuda_gemm bias=false k=1024 n=1024 out=f32 weight_dtype=bf16 x=bf16 weight@=row rows=2048");
    const standard = defaultVariant(given);
    const small = predictSeconds(given, { ...standard, tile_rows: 128, columns: 128 }, ARCH) as number;
    const large = predictSeconds(given, { ...standard, tile_rows: 256, columns: 256 }, ARCH) as number;
    expect(large).toBeGreaterThan(1.5 * small);
  });

  it("of a CPU knows that sums beyond its registers take longer, and says nothing of experts", () => {
    const given = task("linear/linear bias=false k=1024 n=1024 out=f32 weight_dtype=bf16 x=bf16 weight@=panel64 rows=512");
    const standard = defaultVariant(given);
    const at = (tile_rows: number, arch: ArchLevel): number => predictSeconds(given, { ...standard, tile_rows }, arch) as number;
    // Measured: 5 rows take 1.3 times as long as 4 with AVX2, 6 rows 1.7 times; with AVX-512 and its product of pairs 6 are the best.
    expect(at(5, "x86-64-v3") / at(4, "x86-64-v3")).toBeGreaterThan(1.2);
    expect(at(6, "x86-64-v3")).toBeGreaterThan(at(5, "x86-64-v3"));
    expect(at(6, "x86-64-v4-bf16")).toBeLessThan(at(4, "x86-64-v4-bf16"));
    const router = task(
      "moe_router/moe_router chosen=4 correction=true correction_dtype=f32 experts=16 gate_dtype=f32 hidden=256 norm_min=1e-12 x=f32 correction@=row gate@=panel64 rows=8",
    );
    expect(predictSeconds(router, defaultVariant(router), "x86-64-v3")).toBeUndefined();
  });
});

describe("a class of GPU", () => {
  it("says the arch and the name, in words that name a file", () => {
    expect(gpuClass("sm_90a", "NVIDIA H100 80GB HBM3")).toBe("sm_90a-nvidia-h100-80gb-hbm3");
    expect(gpuClass("sm_80", "../Fake GPU")).toBe("sm_80-gpu-fake-gpu");
  });
});

/** What the stand-in driver and the toolkit need; the rest of this process sees none of it. */
function withEnvironment(env: { readonly [name: string]: string }): void {
  for (const name of Object.keys(process.env)) if (name.startsWith("FAKE_CUDA_")) delete process.env[name];
  Object.assign(process.env, { LD_LIBRARY_PATH: DRIVER, FAKE_CUDA_COMPUTES: "1", ...env });
}

beforeAll(async () => {
  await findNvcc().catch(() => installCuda());
  await buildDriver(DRIVER);
}, 400_000);
const libraryPath = process.env.LD_LIBRARY_PATH;
afterAll(() => {
  withEnvironment({});
  delete process.env.FAKE_CUDA_COMPUTES;
  if (libraryPath === undefined) delete process.env.LD_LIBRARY_PATH;
  else process.env.LD_LIBRARY_PATH = libraryPath;
});

const MACHINE: Machine = { cpu: "this", threads: 2, arch: ARCH, cacheBytes: 2 ** 16, gpu: "Fake GPU" };

async function open(
  env: { readonly [name: string]: string } = {},
  render: RenderVariant = renderCudaVariant,
  memory = 2 ** 28,
): Promise<Backend> {
  withEnvironment(env);
  const native = { compiler: await findCompiler(), cache: new Cache(CACHE) };
  return openCuda({ arch: ARCH, machine: MACHINE, native, nvcc: await findNvcc(), memory, deadlineMs: 3000, render });
}

const LINEAR = task("projection/cuda_linear bias=false k=64 n=72 out=f32 residual=true weight_dtype=bf16 x=bf16 weight@=row rows=7");
const STANDARD = defaultVariant(LINEAR);
/** Of the same order of sums as the default, and of another. */
const ALIKE: Configuration = { ...STANDARD, pitched: 0 };
const OTHER: Configuration = { ...STANDARD, tile_rows: 16 };
const against = (variant: Configuration) => ({
  task: LINEAR,
  variant,
  incumbent: () => ({ variant: STANDARD, seconds: 5e-6 }),
  seed: 1,
});

describe("a right variant on a GPU", () => {
  it.each([
    LINEAR.key,
    "projection/cuda_linear bias=true bias_dtype=f32 eps=0.00001 k=64 n=40 norm=true norm_dtype=bf16 out=bf16 weight_dtype=bf16 x=f32 bias@=row norm@=row weight@=row rows=3",
    "linear/cuda_gemm bias=false k=64 n=64 out=bf16 weight_dtype=bf16 x=bf16 weight@=row rows=33",
  ])("of %s is found right, and timed", async (key) => {
    const backend = await open();
    const given = task(key);
    const first = await backend.trial({ task: given, variant: defaultVariant(given), incumbent: () => undefined, seed: 3 });
    expect(first.reason).toBeUndefined();
    expect(first).toMatchObject({ status: "ok", seconds: expect.any(Number) as number });
    const space = taskSpace(given, ARCH);
    const variant = variantAt(given, space, space.size - 1);
    const incumbent = { variant: defaultVariant(given), seconds: first.seconds as number };
    const second = await backend.trial({ task: given, variant, incumbent: () => incumbent, seed: 4 });
    expect(second).toMatchObject({ status: "ok", incumbent: defaultVariant(given) });
    const [standard, other] = await backend.final({ task: given, variants: [defaultVariant(given), variant], seed: 5 });
    expect([standard?.ratio, other?.variant]).toEqual([1, variant]);
    await backend.close();
  });
});

describe("a bad variant on a GPU", () => {
  it.each([
    ["writes nothing", "idle", "wrong", "out[0] is NaN, or was not written"],
    ["is off", "wrong", "wrong", "out has an error of"],
    ["writes too far", "overrun", "wrong", "wrote behind the end of argument 3"],
    ["traps", "trap", "crash", "the GPU failed in a variant"],
    ["hangs", "hang", "hang", "did not end within 3 s"],
  ])("that %s ends its own process at most", async (_, behaviour, status, reason) => {
    const backend = await open({ FAKE_CUDA_VARIANT: `tilerows16:${behaviour}` });
    expect(await backend.trial(against(OTHER))).toMatchObject({ status, reason: expect.stringContaining(reason) as string });
    // The next one is measured as if nothing had happened.
    expect(await backend.trial(against(ALIKE))).toMatchObject({ status: "ok" });
    const finalists = await backend.final({ task: LINEAR, variants: [STANDARD, OTHER, ALIKE], seed: 2 });
    expect(finalists.map(({ variant }) => variant)).toEqual([STANDARD, ALIKE]);
    await backend.close();
  });

  it("that differs in a bit is wrong where its sums are made in the same order, and right where they are not", async () => {
    const alike = await open({ FAKE_CUDA_VARIANT: "pitched0:bits" });
    expect(await alike.trial(against(ALIKE))).toMatchObject({ status: "wrong", reason: expect.stringContaining("bits") as string });
    await alike.close();
    const other = await open({ FAKE_CUDA_VARIANT: "tilerows16:bits" });
    expect(await other.trial(against(OTHER))).toMatchObject({ status: "ok" });
    await other.close();
  });

  it("that spills, or does not compile, says so", async () => {
    const spilling = `extern "C" __global__ void spilling(int* at) { volatile int kept[64]; for (int i = 0; i < 64; ++i) kept[at[i]] = i; at[0] = kept[at[1]]; }`;
    const backend = await open({}, (given, variant) =>
      variant.tile_rows === 16 ? spilling : variant.tile_rows === 32 ? "this is no C++" : renderCudaVariant(given, variant),
    );
    expect(await backend.trial(against(OTHER))).toMatchObject({
      status: "spills",
      reason: expect.stringContaining("bytes of stack") as string,
    });
    expect(await backend.trial(against({ ...STANDARD, tile_rows: 32 }))).toMatchObject({ status: "compile" });
    await backend.close();
  });
});

describe("a GPU that fails", () => {
  it.each([
    ["cuMemAlloc_v2:2:2", "error", "CUDA_ERROR_OUT_OF_MEMORY"],
    ["cuModuleLoadData:2:200", "crash", "loading code"],
    ["cuLaunchKernelEx:1:701", "crash", "filling weights"],
    ["cuStreamSynchronize:4:700", "crash", "CUDA_ERROR_ILLEGAL_ADDRESS"],
    ["cuGraphInstantiateWithFlags:1:2", "error", "making a graph"],
    ["cuEventElapsedTime_v2:1:700", "crash", "timing"],
  ])("in %s: recorded as %s", async (failure, status, reason) => {
    const backend = await open({ FAKE_CUDA_FAIL: failure });
    expect(await backend.trial(against(OTHER))).toMatchObject({ status, reason: expect.stringContaining(reason) as string });
    await backend.close();
  });

  it("for want of memory measures nothing, and says so", async () => {
    const backend = await open({}, renderCudaVariant, 4096);
    expect(await backend.trial(against(OTHER))).toMatchObject({ status: "error", reason: expect.stringContaining("do not fit") as string });
    await backend.close();
  });
});

describe("a spec that does not hold together", () => {
  it.each([
    ["a launch of no variant", ["data 64", "launch f 32 0 1 1 1 1 0"]],
    ["a launch with an argument that is not there", ["data 64", "variant x.cubin", "launch f 32 0 1 1 1 1 1"]],
    ["a launch with an argument that is not there", ["data 64", "variant x.cubin", "launch f 32 0 1 1 1 1 - 0"]],
    ["a map of no launch", ["data 64", "variant x.cubin", "map 0 bf16 128 1 64 64"]],
    ["a map of an argument that is not there", ["data 64", "variant x.cubin", "launch f 32 0 1 1 1 1 0", "map 1 bf16 128 1 64 64"]],
    ["a map of an argument that is not there", ["data 64", "variant x.cubin", "launch f 32 0 1 1 1 1 0", "map 0 bf16 128 6 64 64"]],
    ["a weight in panel64", ["weight 0 bf16 1 8 8 -3 panel64"]],
    ["a malformed spec: step one 1", ["step one 1"]],
    ["cannot read x.cubin", ["data 64", "variant x.cubin"]],
  ])("ends the process: %s", async (message, lines) => {
    withEnvironment({});
    const native = { compiler: await findCompiler(), cache: new Cache(CACHE) };
    const [program, fill] = await Promise.all([
      buildCudaHarness(native),
      compileFill({ nvcc: await findNvcc(), host: native.compiler, cache: native.cache, arch: ARCH }),
    ]);
    const harness = await Harness.serve(program, ["serve", "9", "0", "1", fill, join(WORK, "spec.lock")], 10_000);
    await expect(harness.open(lines)).rejects.toMatchObject({ status: "error", message });
    await harness.end();
  });
});

describe("tune --target cuda", () => {
  const flags = ["--target", "cuda", "--arch", ARCH, "--batch", "1", "--kernel", "cuda_linear_x1", "--trials", "4"];
  const env = { LD_LIBRARY_PATH: DRIVER, FAKE_CUDA_COMPUTES: "1", ERNIE_COMPILE_TUNING: join(WORK, "tables") };

  it("sweeps, resumes, replays to the same table, and builds and `show` find it", async () => {
    const [journal, again, table] = ["swept.jsonl", "replayed.jsonl", "replayed.json"].map((name) => join(WORK, name)) as [
      string,
      string,
      string,
    ];
    const swept = await cli(["tune", DENSE, ...flags, "--journal", journal, "--json"], { env });
    expect(swept.exitCode, swept.stderr).toBe(0);
    const said = JSON.parse(swept.stdout) as { device: string; table: string; rows: readonly object[] };
    expect(said.device).toBe("sm_90a-gpu-fake-gpu");
    expect(said.rows.length).toBeGreaterThan(1);
    const own = JSON.parse(readFileSync(said.table, "utf8")) as { rows: readonly { winner: object }[] };

    // What the journal has is not measured again: the table is made once more, of the same times.
    rmSync(said.table);
    const resumed = await cli(["tune", DENSE, ...flags, "--journal", journal, "--resume"], {
      env: { ...env, FAKE_CUDA_VARIANT: "linear:trap" },
    });
    expect(resumed.exitCode, resumed.stderr).toBe(0);
    expect(JSON.parse(readFileSync(said.table, "utf8"))).toEqual(own);

    const replayed = await cli(["tune", DENSE, ...flags, "--replay", journal, "--journal", again, "-o", table]);
    expect(replayed.exitCode, replayed.stderr).toBe(0);
    const names = (rows: readonly { winner: object }[]) => rows.map(({ winner }) => (winner as { params: object }).params);
    expect(names((JSON.parse(readFileSync(table, "utf8")) as typeof own).rows)).toEqual(names(own.rows));

    const shown = await cli(["tune", "show", "--arch", ARCH], { env });
    expect(shown.exitCode, shown.stderr).toBe(0);
    expect(shown.stdout).toContain(ARCH);
    const report = await cli(["tune", "report", journal, "-o", join(WORK, "report.html")]);
    expect(report.exitCode, report.stderr).toBe(0);
    expect(readFileSync(join(WORK, "report.html"), "utf8")).toContain("Fake GPU");
  });

  it.each([
    ["no driver", { LD_LIBRARY_PATH: WORK }, "libcuda.so.1 can't be opened"],
    ["a GPU of another arch", { FAKE_CUDA_CAPABILITY: "8.0" }, "found GPUs of compute capability 8.0, expected 9.0"],
    ["no GPU", { FAKE_CUDA_CAPABILITY: "" }, "finds no GPU"],
    ["an old driver", { FAKE_CUDA_VERSION: "12020" }, "needs one that knows 12.4"],
    ["a driver that fails", { FAKE_CUDA_FAIL: "cuDevicePrimaryCtxRetain:1:700" }, "CUDA_ERROR_ILLEGAL_ADDRESS"],
  ])("with %s says what is missing", async (_, more, message) => {
    const result = await cli(["tune", DENSE, ...flags, "--journal", join(WORK, "never.jsonl")], { env: { ...env, ...more } });
    expect(result.exitCode).not.toBe(0);
    expect(result.stderr).toContain("tune-gpu");
    expect(result.stderr).toContain(message);
  });

  it("without nvcc says how to get one", async () => {
    writeFileSync(join(WORK, "empty"), "");
    const result = await cli(["tune", DENSE, ...flags, "--cuda", join(WORK, "none")], { env });
    expect(result.stderr).toContain("nvcc-missing");
  });
});
