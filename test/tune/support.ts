/** A small landscape for tests of strategies, and T4 text. */

import { type Landscape, parseLandscape } from "../../src/tune/landscape.js";
import { Random } from "../../src/tune/random.js";

export interface Entry {
  readonly configuration: { readonly [name: string]: number | string | boolean };
  /** Undefined where it failed. */
  readonly cost?: number | undefined;
}

export function t4Text(entries: readonly Entry[]): string {
  return JSON.stringify({
    metadata: { timeunit: "miliseconds" },
    schema_version: "1.0.0",
    results: entries.map(({ configuration, cost }) => ({
      configuration,
      times: {},
      invalidity: cost === undefined ? "runtime" : "correct",
      correctness: cost === undefined ? 0 : 1,
      measurements: [{ name: "time", value: cost ?? "RuntimeFailedConfig", unit: "" }],
      objectives: ["time"],
    })),
  });
}

/** 1400 or so configurations of a tiled kernel: a bowl over the product of two sizes, a switch that pays on one side of it, failures of large tiles. */
export function bowl(): Landscape {
  return parseLandscape(bowlText(), "bowl");
}

/** The same as T4 text. */
export function bowlText(seed = 7): string {
  const random = new Random(seed);
  const entries: Entry[] = [];
  for (const x of [4, 8, 16, 32, 64, 128])
    for (const y of [1, 2, 4, 8, 16, 32])
      for (const tile of [1, 2, 3, 4, 5, 6])
        for (const shared of [0, 1])
          for (const order of ["ij", "ji", "tiled"]) {
            if (x * y > 1024) continue;
            const threads = Math.log2(x * y) - 7;
            const time =
              1 +
              threads ** 2 / 4 +
              Math.abs(tile - 3) / 4 +
              (shared === (x > 16 ? 1 : 0) ? 0 : 0.5) +
              (order === "ji" ? 0 : 0.3) +
              random.uniform() / 20;
            entries.push({ configuration: { x, y, tile, shared, order }, cost: x * tile > 512 ? undefined : time });
          }
  return t4Text(entries);
}
