/** What tests of whole packages ask of them: what their manifest says, what their generated sources are, and whether they compute what a golden holds. */

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "vitest";
import { readFloats, readIntegers } from "../../src/weights/read-tensor.js";
import { cliOk, GOLDENS, lead, nmse, WORK } from "./support.js";

export interface Manifest {
  readonly build: string;
  readonly build_id: string;
  readonly target: { readonly arch: string };
  readonly memory: { readonly weights: number; readonly kvBytesPerToken: number };
  readonly programs: readonly { readonly name: string; readonly launches: number }[];
  readonly kernels: readonly { readonly name: string; readonly op: string; readonly params: object }[];
  readonly files: { readonly [path: string]: { readonly sha256: string; readonly bytes: number } };
}

export async function readManifest(folder: string): Promise<Manifest> {
  return JSON.parse(await readFile(join(folder, "manifest.json"), "utf8")) as Manifest;
}

/** Texts of the files of a package by path, with the build folder called `build`; binary ones in latin1. */
export async function packageFiles(folder: string): Promise<ReadonlyMap<string, string>> {
  const { build } = await readManifest(folder);
  const files = new Map<string, string>();
  const add = async (path: string, prefix: string): Promise<void> => {
    for (const entry of (await readdir(path, { withFileTypes: true })).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      if (entry.isDirectory()) {
        // The build before stays beside this one.
        if (entry.name === build) await add(join(path, entry.name), "build/");
        else if (path !== folder) await add(join(path, entry.name), `${prefix}${entry.name}/`);
      } else files.set(prefix + entry.name, await readFile(join(path, entry.name), "latin1"));
    }
  };
  await add(folder, "");
  return files;
}

/** Largest error that counts as right, as in goldens-f32.test.ts and goldens-bf16.test.ts. */
const LIMITS = { f32: 1e-9, bf16: 5e-4 } as const;

/** One prefill of the golden's prompt and eight greedy tokens. bf16 may differ from where the two best logits are within 0.1. */
export async function expectGolden(folder: string, name: string, activations: "f32" | "bf16" = "f32"): Promise<void> {
  const golden = join(GOLDENS, name, "golden.safetensors");
  const out = join(WORK, `check-${process.hrtime.bigint()}.safetensors`);
  const prompt = [...(await readIntegers(golden, "input_ids")).data].join(",");
  await cliOk(["logits", folder, "--ids", prompt, "--greedy", "8", "-o", out]);
  expect(nmse((await readFloats(out, "logits")).data, (await readFloats(golden, "logits")).data)).toBeLessThan(LIMITS[activations]);
  const [found, expected] = await Promise.all([out, golden].map(async (file) => [...(await readIntegers(file, "greedy_ids")).data]));
  if (activations === "f32") expect(found).toEqual(expected);
  else {
    const { data, shape } = await readFloats(golden, "greedy_logits");
    const width = shape[1] as number;
    const close = (expected as readonly unknown[]).findIndex((_, i) => lead(data.slice(i * width, (i + 1) * width)) < 0.1);
    const certain = close < 0 ? expected?.length : close;
    expect(found?.slice(0, certain)).toEqual(expected?.slice(0, certain));
  }
}
