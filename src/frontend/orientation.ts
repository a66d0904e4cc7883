/**
 * Which way round a matrix is stored: [out, in] as PyTorch does, or [in, out] as Paddle does. The shape says it, unless the matrix is square; then the
 * other matrices of the checkpoint say it, and where there are none the names and the config.
 */

import { Diagnostic } from "../diagnostics.js";
import type { FileStyle } from "./config-style.js";
import type { Prefix } from "./spellings.js";

/** As wanted, with its last two axes swapped, or square so that the shape can't say. */
export type Orientation = "plain" | "transposed" | "square";

/** `wanted` is [n], [out, in] or [experts, out, in]. A stored axis of size 1 in front counts for nothing: router biases are [1, E]. */
export function orientationOf(found: readonly number[], wanted: readonly number[]): Orientation | undefined {
  if (wanted.length === 1) {
    const fits = found.length > 0 && found.at(-1) === wanted[0] && found.slice(0, -1).every((size) => size === 1);
    return fits ? "plain" : undefined;
  }
  const swapped = [...wanted.slice(0, -2), wanted.at(-1), wanted.at(-2)];
  const [plain, turned] = [wanted, swapped].map((shape) => shape.length === found.length && shape.every((size, i) => size === found[i]));
  if (plain && turned) return "square";
  return plain ? "plain" : turned ? "transposed" : undefined;
}

/** Decides for square matrices, after all others were seen. */
export class SquareRule {
  readonly #examples = new Map<Orientation, string>();

  constructor(
    readonly prefix: Prefix,
    readonly style: FileStyle,
  ) {}

  see(orientation: Orientation, name: string): void {
    if (!this.#examples.has(orientation)) this.#examples.set(orientation, name);
  }

  decide(place: string): "plain" | "transposed" {
    const [plain, turned] = [this.#examples.get("plain"), this.#examples.get("transposed")];
    if (plain !== undefined && turned !== undefined) {
      throw ambiguous(place, `${plain} is [out, in] and ${turned} is [in, out]`);
    }
    if (plain !== undefined) return "plain";
    if (turned !== undefined) return "transposed";
    const byPrefix = this.prefix === "ernie." ? "paddle" : this.prefix === "model." ? "pt" : null;
    if (byPrefix !== null && this.style !== null && byPrefix !== this.style) {
      throw ambiguous(place, `the names are those of ${byPrefix === "pt" ? "PyTorch" : "Paddle"} and config.json is not`);
    }
    const decided = byPrefix ?? this.style;
    if (decided === null) throw ambiguous(place, "no other matrix, no prefix and no dtype in config.json says it");
    return decided === "paddle" ? "transposed" : "plain";
  }
}

function ambiguous(place: string, evidence: string): Diagnostic {
  return new Diagnostic({
    code: "tensor-orientation",
    message: `found a square matrix that may be [out, in] or [in, out]: ${evidence}`,
    place,
    hint: "say torch_dtype in config.json for [out, in], or dtype alone for [in, out], and use one order for all",
  });
}
