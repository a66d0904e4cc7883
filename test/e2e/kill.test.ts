/**
 * A build that is killed at any moment leaves the old package or the new one, and either answers. Where in a build it is killed is drawn from a seed,
 * which is printed: half of the time anywhere, else near its end, where files are put into place. Kills between phases are in bad-input.test.ts.
 */

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import { expect, it } from "vitest";
import { readFloats } from "../../src/weights/read-tensor.js";
import { Random } from "../passes/soup.js";
import { readManifest } from "./packages.js";
import { CLI, cliOk, GOLDENS, WORK } from "./support.js";

const KILLS = 10;
const ACTIVATIONS = ["bf16", "f32"];
const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));

it(`${KILLS} kills at random, SEED=${seed}`, async () => {
  const random = new Random(seed);
  const out = join(WORK, "killed");
  const args = (activations: string) => ["build", join(GOLDENS, "dense"), "-o", out, "--activations", activations];
  const packages = new Map<string, Float32Array>();
  const ids: string[] = [];
  let ms = 0;
  for (const activations of ACTIVATIONS) {
    await cliOk(args(activations));
    // Once more from a warm cache, to know how long it takes.
    const start = performance.now();
    await cliOk(args(activations));
    ms = performance.now() - start;
    const { build_id } = await readManifest(out);
    ids.push(build_id);
    packages.set(build_id, await logits(out));
  }
  expect(packages.size).toBe(2);

  let killed = 0;
  for (let i = 0; i < KILLS; i++) {
    const child = execa(process.execPath, [CLI, ...args(ACTIVATIONS[i % 2] as string)], { reject: false, timeout: 120_000 });
    const after = ms * (random.chance(0.5) ? random.next() : 0.7 + 0.3 * random.next());
    const timer = setTimeout(() => child.kill("SIGKILL"), after);
    const { signal } = await child;
    clearTimeout(timer);
    killed += Number(signal === "SIGKILL");
    const { build_id: found } = await readManifest(out);
    expect(packages.has(found), `kill ${i}, after ${Math.round(after)} ms`).toBe(true);
    if (signal !== "SIGKILL") expect(found).toBe(ids[i % 2]);
    await cliOk(["verify", out]);
    expect(await logits(out)).toEqual(packages.get(found));
  }
  expect(killed).toBeGreaterThan(0);

  await cliOk(args("bf16"));
  const { build, build_id } = await readManifest(out);
  expect(await logits(out)).toEqual(packages.get(build_id));
  const left = (await readdir(out)).filter((name) => !/^(index\.(js|cjs|d\.ts|d\.cts)|package\.json|manifest\.json)$/.test(name));
  expect(left).toContain(build);
  // The build before may stay, for whoever still runs it; nothing else does.
  expect(left.length).toBeLessThanOrEqual(2);
  expect(left.every((name) => /^build-[0-9a-f]{16}(-\d+)?$/.test(name))).toBe(true);
});

async function logits(folder: string): Promise<Float32Array> {
  const out = join(WORK, `killed-${process.hrtime.bigint()}.safetensors`);
  await cliOk(["logits", folder, "--ids", "1,2,3,4", "-o", out]);
  return (await readFloats(out, "logits")).data;
}
