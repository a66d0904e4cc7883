/**
 * Typed reading of one JSON object's fields. Each refusal names file and key, what was found and what was expected. `null` counts as absent: Hugging
 * Face files write it for "not set". Which fields there are, and what they mean, is for the caller.
 */

import { Diagnostic } from "../diagnostics.js";
import { describeJson, isJsonObject, type Json, type JsonObject } from "./json.js";

export interface Range {
  readonly min: number;
  readonly max: number;
}

/** Where nothing better is known. */
const CORRECT = "correct it, or take the file that came with the weights";

export class Fields {
  constructor(
    readonly object: JsonObject,
    /** The file, and for a nested object the key in it, as `config.json: rope_parameters`. */
    readonly place: string,
    /** Prefix of keys in messages: `rope_parameters.`. */
    readonly prefix = "",
  ) {}

  at(key: string): string {
    return `${this.place}: ${this.prefix}${key}`;
  }

  get(key: string): Json | undefined {
    return this.object[key] ?? undefined;
  }

  has(key: string): boolean {
    return this.get(key) !== undefined;
  }

  /** The key was written, be it with null. */
  states(key: string): boolean {
    return this.object[key] !== undefined;
  }

  refuse(code: string, key: string, expected: string, hint = CORRECT): Diagnostic {
    return new Diagnostic({ code, message: `found ${describeJson(this.object[key])}, expected ${expected}`, place: this.at(key), hint });
  }

  missing(key: string, expected: string, hint = CORRECT): Diagnostic {
    return new Diagnostic({ code: "config-missing-field", message: `found no ${key}, expected ${expected}`, place: this.at(key), hint });
  }

  int(key: string, range: Range): number | undefined {
    const value = this.get(key);
    return value === undefined ? undefined : this.#checkInt(key, value, range);
  }

  requiredInt(key: string, range: Range, hint?: string): number {
    const value = this.int(key, range);
    if (value === undefined) throw this.missing(key, integerIn(range), hint);
    return value;
  }

  /** An integer, or a list that holds one: the family writes per-modality fields as lists. */
  intOrOnly(key: string, range: Range): number | undefined {
    const value = this.get(key);
    if (value === undefined) return undefined;
    if (!Array.isArray(value)) return this.#checkInt(key, value, range);
    const items = value as readonly Json[];
    if (items.length !== 1) throw this.refuse("config-wrong-type", key, `${integerIn(range)}, or a list of one`);
    return this.#checkInt(key, items[0] as Json, range);
  }

  ints(key: string, range: Range): readonly number[] | undefined {
    const value = this.get(key);
    if (value === undefined) return undefined;
    const items = Array.isArray(value) ? (value as readonly Json[]) : [value];
    return items.map((item) => this.#checkInt(key, item, range));
  }

  /** A finite number in [min, max]; `open` excludes min. */
  number(key: string, { min, max, open = false }: Range & { readonly open?: boolean }): number | undefined {
    const value = this.get(key);
    if (value === undefined) return undefined;
    const expected = `a number ${open ? `above ${min} and up` : `from ${min}`} to ${max}`;
    if (typeof value !== "number") throw this.refuse("config-wrong-type", key, expected);
    if (!(value >= min && value <= max) || (open && value === min)) throw this.refuse("config-out-of-range", key, expected);
    return value;
  }

  boolean(key: string): boolean | undefined {
    const value = this.get(key);
    if (value !== undefined && typeof value !== "boolean") throw this.refuse("config-wrong-type", key, "true or false");
    return value;
  }

  text(key: string): string | undefined {
    const value = this.get(key);
    if (value !== undefined && typeof value !== "string") throw this.refuse("config-wrong-type", key, "text");
    return value;
  }

  texts(key: string): readonly string[] | undefined {
    const value = this.get(key);
    if (value === undefined) return undefined;
    if (!Array.isArray(value) || !(value as readonly Json[]).every((item) => typeof item === "string")) {
      throw this.refuse("config-wrong-type", key, "a list of texts");
    }
    return value as readonly string[];
  }

  nested(key: string): Fields | undefined {
    const value = this.get(key);
    if (value === undefined) return undefined;
    if (!isJsonObject(value)) throw this.refuse("config-wrong-type", key, "an object");
    return new Fields(value, this.place, `${this.prefix}${key}.`);
  }

  #checkInt(key: string, value: Json, range: Range): number {
    if (typeof value !== "number" || !Number.isInteger(value)) throw this.refuse("config-wrong-type", key, integerIn(range));
    if (value < range.min || value > range.max) throw this.refuse("config-out-of-range", key, integerIn(range));
    return value;
  }
}

function integerIn({ min, max }: Range): string {
  return `an integer from ${min} to ${max}`;
}
