import { mkdir, readdir, readFile, symlink, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { type Checkpoint, openCheckpoint } from "../../src/weights/checkpoint.js";
import {
  layOutPackedHead,
  type PackDType,
  type PackedWeight,
  type PackPart,
  type PackPlan,
  packPart,
  packVector,
  planPack,
  serializePackPlan,
} from "../../src/weights/pack-plan.js";
import { runPacker, runUnpacker } from "../../src/weights/packer.js";
import { readSafetensorsHeader } from "../../src/weights/safetensors.js";
import { isPadding, type TensorToWrite, writeSafetensors } from "../../src/weights/safetensors-write.js";
import type { TensorDType } from "../../src/weights/tensor-type.js";
import { sanitizers } from "../native/build-native.js";
import { packReference, unpackReference } from "./pack-reference.js";
import { buildPacker } from "./packer-binary.js";
import { temporaryFolder } from "./temporary-folder.js";

let packer = "";
beforeAll(async () => {
  packer = await buildPacker();
}, 120_000);

type Weights = readonly Omit<PackedWeight, "offset">[];

let seed = 1;
/** Any bits for copies; for conversions, ordinary numbers of all sizes, since the two sides need not agree on a NaN's payload. */
function tensor(name: string, dtype: TensorDType, shape: readonly number[]): TensorToWrite {
  const elements = shape.reduce((product, size) => product * size, 1);
  const random = () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed;
  };
  if (dtype === "F32")
    return {
      name,
      dtype,
      shape,
      data: Float32Array.from({ length: elements }, () => (random() / 2 ** 31 - 1) * 2 ** ((random() % 40) - 20)),
    };
  return { name, dtype, shape, data: Uint16Array.from({ length: elements }, () => (random() >>> 8) & 0xbbff) };
}

async function checkpointOf(tensors: readonly TensorToWrite[]): Promise<Checkpoint> {
  const folder = await temporaryFolder();
  await writeSafetensors(join(folder, "model.safetensors"), tensors);
  return openCheckpoint(folder);
}

function of(checkpoint: Checkpoint, name: string, options: Parameters<typeof packPart>[1] = {}): PackPart {
  const found = checkpoint.tensors.get(name);
  if (!found) throw new Error(name);
  return packPart(found, options);
}

function weight(
  id: string,
  layout: "row" | "panel64",
  dtype: PackDType,
  slabs: readonly (readonly PackPart[])[],
  interleave = 0,
): Weights[number] {
  const parts = slabs[0] ?? [];
  const n = parts.reduce((sum, { rowCount }) => sum + rowCount, 0);
  const k = parts[0]?.transposed ? parts[0].rows : parts[0]?.cols;
  return { id, layout, dtype, shape: [slabs.length, n, k ?? 0], slabs, interleave };
}

/** Packs and compares every byte with the reference, then unpacks and compares again. */
async function packAndCheck(checkpoint: Checkpoint, weights: Weights, threads = 2): Promise<void> {
  const plan = planPack(checkpoint, weights);
  const head = layOutPackedHead(plan, { format: "test", build_id: "build-0" });
  const folder = await temporaryFolder();
  const packed = join(folder, "weights.safetensors");
  await runPacker({ packer, plan, head, out: packed, threads });
  const files = await Promise.all(checkpoint.files.map(({ path }) => readFile(path)));
  const bytes = await readFile(packed);
  expect(bytes.length).toBe(head.bytes);
  for (const { offset, ...rest } of plan.weights) {
    const expected = packReference(rest, files);
    const start = head.head.length + offset;
    expect(bytes.subarray(start, start + expected.length).equals(expected), `packed ${rest.id}`).toBe(true);
  }
  const out = join(folder, "unpacked.bin");
  await runUnpacker({ packer, plan, head, packed, out });
  expect((await readFile(out)).equals(Buffer.concat(weights.map((each) => unpackReference(each, files))))).toBe(true);
}

const NS = [1, 16, 24, 64, 96, 128, 300];
const KS = [1, 2, 7, 32, 63, 130];

describe("packing", () => {
  it.each(["row", "panel64"] as const)("puts every shape into %s, straight and transposed", async (layout) => {
    const shapes = NS.flatMap((n) => KS.map((k) => [n, k] as const));
    const checkpoint = await checkpointOf(
      shapes.flatMap(([n, k]) => [tensor(`${n}.${k}`, "BF16", [n, k]), tensor(`${n}.${k}.t`, "BF16", [k, n])]),
    );
    await packAndCheck(
      checkpoint,
      shapes.flatMap(([n, k]) => [
        weight(`w${n}.${k}`, layout, "bf16", [[of(checkpoint, `${n}.${k}`)]]),
        weight(`t${n}.${k}`, layout, "bf16", [[of(checkpoint, `${n}.${k}.t`, { transposed: true })]]),
      ]),
    );
  });

  it("converts between all types, in both layouts and orientations", async () => {
    const dtypes = ["BF16", "U16", "F16", "F32"] as const;
    const checkpoint = await checkpointOf(dtypes.map((dtype) => tensor(dtype, dtype, [72, 72])));
    const weights = dtypes.flatMap((from) =>
      (["bf16", "f32"] as const).flatMap((to) =>
        (["row", "panel64"] as const).flatMap((layout) => [
          weight(`${from}.${to}.${layout}`, layout, to, [[of(checkpoint, from, { rowCount: 71 })]]),
          weight(`${from}.${to}.${layout}.t`, layout, to, [[of(checkpoint, from, { transposed: true, rowStart: 3 })]]),
        ]),
      ),
    );
    await packAndCheck(checkpoint, weights);
  });

  it("keeps the numbers at the edges of the types", async () => {
    const edges = [
      0,
      -0,
      2 ** -24,
      2 ** -25,
      6e-8,
      65504,
      65520,
      1 + 2 ** -8,
      1 + 3 * 2 ** -8,
      3.4e38,
      1e-45,
      2 ** -126,
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
    ];
    const every = Uint16Array.from({ length: 65536 }, (_, i) => i).filter((half) => (half & 0x7c00) !== 0x7c00 || (half & 0x3ff) === 0);
    const checkpoint = await checkpointOf([
      { name: "f32", dtype: "F32", shape: [1, edges.length], data: Float32Array.from(edges) },
      { name: "f16", dtype: "F16", shape: [1, every.length], data: every },
    ]);
    await packAndCheck(checkpoint, [
      weight("a", "row", "bf16", [[of(checkpoint, "f32")]]),
      weight("b", "row", "f32", [[of(checkpoint, "f16")]]),
      weight("c", "row", "bf16", [[of(checkpoint, "f16")]]),
    ]);
  });

  it("keeps a NaN a NaN when it narrows", async () => {
    const bits = Uint32Array.from({ length: 16 }, (_, i) => 0x7f800001 + ((i % 2) << 31));
    const checkpoint = await checkpointOf([{ name: "nan", dtype: "F32", shape: [16, 1], data: bits }]);
    const plan = planPack(checkpoint, [weight("a", "row", "bf16", [[of(checkpoint, "nan")]])]);
    const head = layOutPackedHead(plan, {});
    const out = join(await temporaryFolder(), "w");
    await runPacker({ packer, plan, head, out });
    const bytes = (await readFile(out)).subarray(head.head.length);
    expect([...new Uint16Array(Uint8Array.from(bytes).buffer)]).toEqual(Array.from(bits, (pattern) => (pattern >>> 16) | 0x40));
  });

  it.each([32, 16, 8])("takes gate and up in turns of %d rows", async (group) => {
    const widths = [group, 3 * group, 7 * group];
    const checkpoint = await checkpointOf(
      widths.flatMap((m) => [
        tensor(`gate.${m}`, "BF16", [m, 33]),
        tensor(`up.${m}`, "F32", [m, 33]),
        tensor(`fused.${m}`, "BF16", [33, 2 * m]),
        tensor(`stacked.${m}`, "BF16", [3, 2 * m, 33]),
        tensor(`bias.${m}`, "BF16", [2 * m]),
      ]),
    );
    const weights = widths.flatMap((m) => {
      const halves = (name: string, options: Parameters<typeof packPart>[1] = {}) =>
        [0, m].map((rowStart) => of(checkpoint, `${name}.${m}`, { ...options, rowStart, rowCount: m }));
      return [
        weight(`separate.${m}`, "panel64", "bf16", [[of(checkpoint, `gate.${m}`), of(checkpoint, `up.${m}`)]], group),
        weight(`paddle.${m}`, "panel64", "bf16", [halves("fused", { transposed: true })], group),
        weight(
          `experts.${m}`,
          "panel64",
          "bf16",
          [0, 1, 2].map((slab) => halves("stacked", { slab })),
          group,
        ),
        weight(`rows.${m}`, "row", "f32", [halves("fused", { transposed: true })], group),
        weight(`bias.${m}`, "row", "f32", [halves("bias")], group),
      ];
    });
    await packAndCheck(checkpoint, weights);
  });

  it("puts q, k and v after each other, from three tensors or one, and their biases", async () => {
    const checkpoint = await checkpointOf([
      tensor("q", "BF16", [70, 40]),
      tensor("k", "BF16", [20, 40]),
      tensor("v", "F16", [21, 40]),
      tensor("qkv", "BF16", [40, 111]),
      ...["q", "k", "v"].map((name, i) => tensor(`${name}.bias`, "BF16", [[70, 20, 21][i] as number])),
      tensor("router.bias", "F32", [1, 64]),
    ]);
    const columns = [0, 70, 90, 111]
      .slice(0, 3)
      .map((rowStart, i) => of(checkpoint, "qkv", { transposed: true, rowStart, rowCount: [70, 20, 21][i] as number }));
    const router = checkpoint.tensors.get("router.bias");
    await packAndCheck(checkpoint, [
      weight("separate", "panel64", "bf16", [["q", "k", "v"].map((name) => of(checkpoint, name))]),
      weight("fused", "panel64", "bf16", [columns]),
      weight("mixed", "panel64", "f32", [[of(checkpoint, "q"), columns[1] as PackPart, of(checkpoint, "v")]]),
      weight("reversed", "row", "bf16", [columns.toReversed()]),
      weight("bias", "row", "f32", [["q.bias", "k.bias", "v.bias"].map((name) => of(checkpoint, name))]),
      ...(router ? [weight("router", "row", "f32", [[packVector(router)]])] : []),
    ]);
  });

  it("cuts what does not fit a buffer, in both directions", async () => {
    const checkpoint = await checkpointOf([
      tensor("wide", "BF16", [66, 4101]),
      tensor("tall", "BF16", [9000, 20]),
      tensor("paddle-wide", "F32", [67, 16_500]),
      tensor("paddle-tall", "BF16", [2201, 1000]),
    ]);
    await packAndCheck(
      checkpoint,
      (["row", "panel64"] as const).flatMap((layout) => [
        weight(`wide.${layout}`, layout, "bf16", [[of(checkpoint, "wide")]]),
        weight(`tall.${layout}`, layout, "f32", [[of(checkpoint, "tall")]]),
        weight(`paddle-wide.${layout}`, layout, "bf16", [[of(checkpoint, "paddle-wide", { transposed: true })]]),
        weight(`paddle-tall.${layout}`, layout, "bf16", [[of(checkpoint, "paddle-tall", { transposed: true })]]),
      ]),
    );
  }, 60_000);

  it("means the same for random plans, whatever the number of threads", async () => {
    const dtype = fc.constantFrom("BF16", "F16", "F32") satisfies fc.Arbitrary<TensorDType>;
    const part = fc.record({
      dtype,
      transposed: fc.boolean(),
      before: fc.nat(70),
      after: fc.nat(20),
      rows: fc.integer({ min: 1, max: 90 }),
    });
    const weights = fc.record({
      layout: fc.constantFrom("row" as const, "panel64" as const),
      dtype: fc.constantFrom("bf16" as const, "f32" as const),
      k: fc.integer({ min: 1, max: 70 }),
      parts: fc.array(part, { minLength: 1, maxLength: 4 }),
      group: fc.constantFrom(0, 1, 3, 8, 16, 32),
      slabs: fc.integer({ min: 1, max: 3 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(weights, { minLength: 1, maxLength: 4 }), fc.integer({ min: 1, max: 5 }), async (wanted, threads) => {
        // Two parts of whole groups where interleaving is drawn; each part is a range of a larger stored matrix.
        const shaped = wanted.map((each) => {
          const pair = each.group > 0 ? [each.parts[0], each.parts.at(-1)].filter((one) => one !== undefined) : each.parts;
          const height = each.group * (((pair[0]?.rows ?? 1) % 5) + 1);
          return { ...each, parts: pair.map((one) => ({ ...one, rows: each.group > 0 ? height : one.rows })) };
        });
        const tensors = shaped.flatMap(({ parts, k, slabs }, w) =>
          Array.from({ length: slabs }, (_, slab) =>
            parts.map(({ dtype: type, transposed, before, rows, after }, p) => {
              const n = before + rows + after;
              return tensor(`${w}.${slab}.${p}`, type, transposed ? [k, n] : [n, k]);
            }),
          ).flat(),
        );
        const checkpoint = await checkpointOf(tensors);
        await packAndCheck(
          checkpoint,
          shaped.map(({ layout, dtype: type, parts, group, slabs }, w) => {
            const each = Array.from({ length: slabs }, (_, slab) =>
              parts.map(({ transposed, before, rows }, p) =>
                of(checkpoint, `${w}.${slab}.${p}`, { transposed, rowStart: before, rowCount: rows }),
              ),
            );
            return weight(`w${w}`, layout, type, each, group);
          }),
          threads,
        );
      }),
      { numRuns: 40 },
    );
  }, 60_000);
});

async function smallPlan(): Promise<{ checkpoint: Checkpoint; plan: PackPlan }> {
  const checkpoint = await checkpointOf([tensor("a", "BF16", [100, 33]), tensor("b", "F32", [5])]);
  return {
    checkpoint,
    plan: planPack(checkpoint, [
      weight("w0", "panel64", "bf16", [[of(checkpoint, "a")]]),
      weight("w1", "row", "f32", [[of(checkpoint, "b")]]),
    ]),
  };
}

describe("the packed file", () => {
  it("is a safetensors file with a padded shape per weight, and every weight starts at a multiple of 256", async () => {
    const { plan } = await smallPlan();
    const head = layOutPackedHead(plan, { format: "ern-weights-1", build_id: "build-123" });
    const out = join(await temporaryFolder(), "weights.safetensors");
    const progress: [number, number][] = [];
    await runPacker({ packer, plan, head, out, onProgress: (done, total) => progress.push([done, total]) });
    const file = await readSafetensorsHeader(out);
    expect(Object.fromEntries(file.metadata)).toEqual({ format: "ern-weights-1", build_id: "build-123" });
    const weights = [...file.tensors.values()].filter(({ name }) => !isPadding(name));
    expect(weights.map(({ name, dtype, shape }) => [name, dtype, shape])).toEqual([
      ["w0", "BF16", [1, 112, 34]],
      ["w1", "F32", [1, 5, 1]],
    ]);
    expect(weights.every(({ offset }) => offset % 256 === 0)).toBe(true);
    expect(progress.at(-1)).toEqual([plan.dataBytes, plan.dataBytes]);
  });

  it("has the same bytes for the same plan, and replaces an older one in one step", async () => {
    const { plan } = await smallPlan();
    const head = layOutPackedHead(plan, { build_id: "b" });
    expect(layOutPackedHead(plan, { build_id: "b" }).sha256).toBe(head.sha256);
    const folder = await temporaryFolder();
    const out = join(folder, "weights.safetensors");
    await runPacker({ packer, plan, head, out, threads: 1 });
    const first = await readFile(out);
    await writeFile(out, "old");
    await runPacker({ packer, plan, head, out, threads: 4 });
    expect((await readFile(out)).equals(first)).toBe(true);
    expect(await readdir(folder)).toEqual(["weights.safetensors"]);
  });
});

describe("the packer's memory", () => {
  // Sanitizers reserve address space of their own.
  it.skipIf(sanitizers !== "")("stays the same whatever the size of a tensor", async () => {
    const folder = await temporaryFolder();
    const [rows, cols] = [2 ** 17, 2 ** 10]; // 256 MiB, of which the packer may not even address 150
    const path = join(folder, "sparse");
    await writeFile(path, "");
    await truncate(path, rows * cols * 2);
    const part: PackPart = { file: 0, offset: 0, dtype: "bf16", rows, cols, transposed: false, rowStart: 0, rowCount: rows };
    const file = { path, bytes: rows * cols * 2, dataStart: 0, tensors: new Map(), metadata: new Map() };
    const plan = planPack({ files: [file] }, [weight("w0", "panel64", "bf16", [[part]])]);
    const planFile = join(folder, "plan.json");
    await writeFile(planFile, serializePackPlan(plan, layOutPackedHead(plan, {})));
    const { exitCode, stdout } = await execa(
      "sh",
      ["-c", 'ulimit -v 150000; exec "$@"', "sh", packer, planFile, join(folder, "out"), "--threads", "2"],
      { reject: false },
    );
    expect([exitCode, JSON.parse(stdout.trim().split("\n").at(-1) ?? "")]).toEqual([0, { done: plan.dataBytes, total: plan.dataBytes }]);
  });
});

describe("a pack that fails leaves what was there, and says why", () => {
  async function failure(
    change: (at: { checkpoint: Checkpoint; plan: PackPlan; folder: string }) => Promise<PackPlan | undefined>,
    packed = "weights.safetensors",
  ) {
    const { checkpoint, plan } = await smallPlan();
    const folder = await temporaryFolder();
    const out = join(folder, packed);
    const changed = (await change({ checkpoint, plan, folder })) ?? plan;
    const before = await readdir(folder);
    const error: unknown = await runPacker({ packer, plan: changed, head: layOutPackedHead(plan, {}), out }).catch(
      (reason: unknown) => reason,
    );
    expect(await readdir(folder)).toEqual(before);
    return error;
  }

  it("when a source has been cut short or taken away", async () => {
    const file = (checkpoint: Checkpoint) => checkpoint.files[0]?.path ?? "";
    const short = await failure(async ({ checkpoint }) => {
      await truncate(file(checkpoint), 1000);
      return undefined;
    });
    expect(short).toMatchObject({
      code: "pack-source-changed",
      kind: "input",
      message: expect.stringMatching(/found 1000 bytes, expected/),
    });
    const gone = await failure(async ({ plan }) => ({
      ...plan,
      files: [{ path: '/nowhere/odd " \n name', bytes: plan.files[0]?.bytes ?? 0 }],
    }));
    expect(gone).toMatchObject({ code: "pack-source-missing", place: '/nowhere/odd " \n name' });
  });

  it("when the disk is full, before anything is written", async () => {
    // 16384 slabs of 16 GiB, all from one sparse matrix: no file system takes a file of 256 TiB.
    const huge = await failure(async () => {
      const [rows, cols, slabs] = [2 ** 20, 2 ** 13, 2 ** 14];
      const bytes = rows * cols * 2;
      const path = join(await temporaryFolder(), "sparse");
      await writeFile(path, "");
      await truncate(path, bytes);
      const part: PackPart = { file: 0, offset: 0, dtype: "bf16", rows, cols, transposed: false, rowStart: 0, rowCount: rows };
      return planPack({ files: [{ path, bytes, dataStart: 0, tensors: new Map(), metadata: new Map() }] }, [
        weight("w0", "panel64", "bf16", Array<PackPart[]>(slabs).fill([part])),
      ]);
    });
    expect(huge).toMatchObject({ code: "pack-disk-full", kind: "environment" });
  });

  it("when the plan does not hold together", async () => {
    const { plan } = await smallPlan();
    const [w0, w1] = plan.weights as [PackedWeight, PackedWeight];
    const part = w0.slabs[0]?.[0] as PackPart;
    const broken: Record<string, readonly PackedWeight[]> = {
      "offset that is not aligned": [{ ...w0, offset: 128 }, w1],
      "offset inside another weight": [w0, { ...w1, offset: 0 }],
      "shape of zero": [{ ...w0, shape: [1, 0, 33] }, w1],
      "parts that do not fill N": [{ ...w0, shape: [1, 101, 33] }, w1],
      "part of another width": [{ ...w0, shape: [1, 100, 34] }, w1],
      "part past its rows": [{ ...w0, slabs: [[{ ...part, rowStart: 1 }]] }, w1],
      "part past its file": [{ ...w0, slabs: [[{ ...part, offset: part.offset + 1_000_000 }]] }, w1],
      "part of no file": [{ ...w0, slabs: [[{ ...part, file: 1 }]] }, w1],
      "missing slab": [{ ...w0, slabs: [] }, w1],
      "groups that do not divide": [
        { ...w0, interleave: 7, slabs: [[0, 50].map((rowStart) => ({ ...part, rowStart, rowCount: 50 }))] },
        w1,
      ],
      "one interleaved part": [{ ...w0, interleave: 10 }, w1],
      "weights past the data": [w0, { ...w1, offset: 256 * 1000 }],
    };
    const { checkPackPlan } = await import("../../src/weights/pack-plan.js");
    for (const [what, weights] of Object.entries(broken)) {
      expect(() => checkPackPlan({ ...plan, weights }), what).toThrow(/pack plan/);
      const error = await failure(async () => ({ ...plan, weights }));
      expect(error, what).toMatchObject({ code: "pack-plan", kind: "bug" });
    }
  });

  it("when it is stopped, or the packer is missing", async () => {
    const { plan } = await smallPlan();
    const head = layOutPackedHead(plan, {});
    const folder = await temporaryFolder();
    const out = join(folder, "w");
    const stop = new AbortController();
    stop.abort();
    await expect(runPacker({ packer, plan, head, out, signal: stop.signal })).rejects.toMatchObject({ name: "AbortError" });
    await expect(runPacker({ packer: join(folder, "none"), plan, head, out })).rejects.toMatchObject({
      code: "pack-failed",
      kind: "environment",
    });
    expect(await readdir(folder)).toEqual([]);
  });

  it("when it is used wrongly", async () => {
    const folder = await temporaryFolder();
    const { plan } = await smallPlan();
    const planFile = join(folder, "plan.json");
    await writeFile(planFile, serializePackPlan(plan, layOutPackedHead(plan, {})));
    await mkdir(join(folder, "in-the-way"));
    await symlink("nowhere", join(folder, "dangling"));
    for (const [args, code] of [
      [[], "usage"],
      [[planFile, join(folder, "o"), "--threads", "0"], "usage"],
      [[planFile, join(folder, "o"), "--threads", "two"], "usage"],
      [[join(folder, "none"), join(folder, "o")], "usage"],
      [[planFile, join(folder, "in-the-way")], "io"],
      [[planFile, join(folder, "dangling")], "io"],
      [["--unpack", planFile, planFile, join(folder, "o")], "source-changed"],
    ] as const) {
      const { stdout, exitCode } = await execa(packer, args, { reject: false });
      expect([exitCode, JSON.parse(stdout)]).toEqual([1, { code, message: expect.any(String), place: expect.any(String) }]);
    }
    expect((await readdir(folder)).sort()).toEqual(["dangling", "in-the-way", "plan.json"]);
  });

  it("when padding was damaged, as unpacking tells", async () => {
    const { plan } = await smallPlan();
    const head = layOutPackedHead(plan, {});
    const folder = await temporaryFolder();
    const packed = join(folder, "w");
    await runPacker({ packer, plan, head, out: packed });
    const bytes = await readFile(packed);
    bytes[head.head.length + 112 * 34 * 2 - 1] = 1;
    await writeFile(packed, bytes);
    await expect(runUnpacker({ packer, plan, head, packed, out: join(folder, "u") })).rejects.toMatchObject({
      code: "pack-padding",
      place: "w0",
    });
  });
});
