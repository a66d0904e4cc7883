/**
 * Recorded tuning runs in T4, the interchange format of the auto-tuning community: what every configuration of a space cost when it was measured.
 * Reads a file and checks it; strategies are run on it by simulate.ts.
 */

import { readFile, stat } from "node:fs/promises";
import { gunzipSync } from "node:zlib";
import { Diagnostic } from "../diagnostics.js";
import { type Configuration, MAX_CONFIGURATIONS, parameter, Space, type Value } from "./space.js";
import { scanT4, T4SyntaxError } from "./t4-scan.js";

export interface Landscape {
  readonly space: Space;
  /** By configuration, lower is better; NaN where it failed. */
  readonly costs: Float64Array;
  /** The lowest of `costs`. */
  readonly optimum: number;
}

/** Of the file, and of its text once unpacked: what Node reads at once. A record with 32 runs takes 1.7 kB. */
const MAX_BYTES = 2 ** 31 - 1;
const MAX_PARAMETERS = 64;
/** Codes are 16 bits wide. */
const MAX_VALUES = 2 ** 16;

export async function readLandscape(path: string): Promise<Landscape> {
  return parseLandscape(await readUnpacked(path), path);
}

async function readUnpacked(path: string): Promise<Uint8Array> {
  let bytes: Uint8Array;
  try {
    const info = await stat(path);
    if (!info.isFile()) throw malformed("t4-unreadable", "found something that is no file, expected a T4 file", path);
    if (info.size > MAX_BYTES) throw malformed("t4-too-large", `found ${info.size} bytes, expected at most ${MAX_BYTES}`, path);
    bytes = await readFile(path);
  } catch (cause) {
    if (cause instanceof Diagnostic) throw cause;
    throw new Diagnostic({
      code: "t4-unreadable",
      message: cause instanceof Error ? cause.message : String(cause),
      place: path,
      hint: "check the path, and what this user may read",
      cause,
    });
  }
  // By content, not by name: what a download was called says little.
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  try {
    return gunzipSync(bytes, { maxOutputLength: MAX_BYTES });
  } catch (cause) {
    const tooLarge = (cause as NodeJS.ErrnoException).code === "ERR_BUFFER_TOO_LARGE";
    throw tooLarge
      ? malformed("t4-too-large", `found more than ${MAX_BYTES} bytes once unpacked, expected fewer`, path)
      : malformed("t4-not-gzip", `found a gzip file that cannot be unpacked: ${(cause as Error).message}`, path);
  }
}

/** `place` is the file that the JSON came from. */
export function parseLandscape(json: Uint8Array | string, place: string): Landscape {
  const rows: Value[][] = [];
  const costs: number[] = [];
  let names: readonly string[] | undefined;
  let listed = 0;
  const onResult = (result: unknown, i: number): void => {
    const at = `${place}: results[${i}]`;
    if (i >= MAX_CONFIGURATIONS) throw malformed("t4-too-large", `found more than ${MAX_CONFIGURATIONS} results`, `${place}: results`);
    if (!isObject(result)) throw expected("an object", result, at);
    const configuration = readConfiguration(result.configuration, names, `${at}.configuration`);
    names ??= Object.keys(configuration);
    rows.push(names.map((name) => configuration[name] as Value));
    costs.push(readCost(result, at));
  };
  const onResults = (): void => {
    if (listed++ > 0) throw malformed("t4-malformed", "found results twice, expected them once", `${place}: results`);
  };
  const onMember = (name: string, value: unknown): void => {
    if (name === "results") throw expected("a list of at least one result", value, `${place}: results`);
    if (name === "schema_version" && (typeof value !== "string" || !/^1\.\d+\.\d+$/.test(value)))
      throw expected("version 1.x.y", value, `${place}: schema_version`);
  };
  const whole = scanned(() => scanT4(typeof json === "string" ? Buffer.from(json) : json, { onMember, onResults, onResult }), place);
  if (whole) throw expected("a T4 object", whole.other, place);
  if (rows.length === 0) throw expected("a list of at least one result", listed > 0 ? [] : undefined, `${place}: results`);
  const optimum = costs.reduce((best, cost) => (cost < best ? cost : best), Number.POSITIVE_INFINITY);
  if (optimum === Number.POSITIVE_INFINITY)
    throw malformed("t4-no-valid", `found ${rows.length} results and all of them failed, expected a valid one`, place);
  return { space: spaceOf(rows, names ?? [], place), costs: Float64Array.from(costs), optimum };
}

function scanned<T>(scan: () => T, place: string): T {
  try {
    return scan();
  } catch (cause) {
    if (!(cause instanceof T4SyntaxError)) throw cause;
    throw malformed("t4-syntax", `found text that is not JSON at byte ${cause.offset}: ${cause.message}`, place);
  }
}

function spaceOf(rows: readonly (readonly Value[])[], names: readonly string[], place: string): Space {
  const parameters = names.map((name, p) => {
    const found = parameter(name, [...new Set(rows.map((row) => row[p] as Value))]);
    if (found.values.length > MAX_VALUES)
      throw malformed("t4-too-large", `found ${found.values.length} values, expected at most ${MAX_VALUES}`, `${place}: ${name}`);
    return found;
  });
  try {
    return Space.ofRows(parameters, rows);
  } catch (error) {
    if (!(error instanceof Diagnostic)) throw error;
    throw malformed("t4-configurations", error.summary, `${place}: results`);
  }
}

function readConfiguration(value: unknown, names: readonly string[] | undefined, at: string): Configuration {
  if (!isObject(value)) throw expected("an object of parameters", value, at);
  const keys = Object.keys(value);
  if (keys.length === 0 || keys.length > MAX_PARAMETERS)
    throw malformed("t4-configurations", `found ${keys.length} parameters, expected 1 to ${MAX_PARAMETERS}`, at);
  const configuration: { [name: string]: Value } = Object.create(null);
  for (const key of keys) {
    const entry = value[key];
    if (typeof entry !== "string" && typeof entry !== "boolean" && !(typeof entry === "number" && Number.isFinite(entry)))
      throw expected("a number, a string or a boolean", entry, `${at}.${key}`);
    configuration[key] = entry;
  }
  if (names && (names.length !== keys.length || names.some((name) => configuration[name] === undefined)))
    throw malformed(
      "t4-configurations",
      `found the parameters ${keys.join(", ")}, expected ${names.join(", ")} as in the first result`,
      at,
    );
  return configuration;
}

/** The objective's value, or NaN for what failed: only `invalidity` decides, since some files keep times on failed entries. */
function readCost(result: { readonly [key: string]: unknown }, at: string): number {
  const { invalidity, objectives, measurements } = result;
  if (typeof invalidity !== "string") throw expected('a string, "correct" for a valid result', invalidity, `${at}.invalidity`);
  if (invalidity !== "correct") return Number.NaN;
  if (!Array.isArray(objectives) || typeof objectives[0] !== "string")
    throw expected("a list of names of measurements", objectives, `${at}.objectives`);
  if (!Array.isArray(measurements)) throw expected("a list", measurements, `${at}.measurements`);
  const measurement: unknown = measurements.find((entry: unknown) => isObject(entry) && entry.name === objectives[0]);
  if (!isObject(measurement))
    throw malformed("t4-malformed", `found no measurement of ${JSON.stringify(objectives[0])}`, `${at}.measurements`);
  const { value } = measurement;
  if (typeof value !== "number" || !Number.isFinite(value) || value <= 0)
    throw expected("a positive number", value, `${at}.measurements.value`);
  return value;
}

function isObject(value: unknown): value is { readonly [key: string]: unknown } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function expected(what: string, found: unknown, place: string): Diagnostic {
  const text = found === undefined ? "nothing" : (JSON.stringify(found) ?? String(found));
  return malformed("t4-malformed", `found ${text.length > 80 ? `${text.slice(0, 77)}...` : text}, expected ${what}`, place);
}

function malformed(code: string, message: string, place: string): Diagnostic {
  return new Diagnostic({
    code,
    message,
    place,
    hint: "the format is T4, as `ernie-compile tune export --format t4` and Kernel Tuner write it",
  });
}
