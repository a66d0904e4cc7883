/** Checks a compile request against schema/model.schema.json and turns what ajv says into diagnostics. */

import { readFileSync } from "node:fs";
import { Ajv, type ErrorObject, type ValidateFunction } from "ajv";
import { Diagnostic } from "../diagnostics.js";
import { describeJson, isJsonObject, type Json, type JsonObject } from "./json.js";
import { nearest } from "./nearest.js";

/** A request as it is written, after the check. */
export interface RequestFile {
  readonly $schema?: string;
  readonly model: string;
  readonly target?: "cpu" | "cuda";
  readonly arch?: string;
  readonly activations?: "bf16" | "f32";
  readonly quantization?: Json;
  readonly deterministic?: boolean;
  readonly decode?: "launches" | "persistent";
  readonly limits?: { readonly [K in LimitName]?: number };
  readonly weights?: string;
  readonly adapters?: readonly string[];
  readonly tuning?: string | null;
  readonly threads?: number | null;
  readonly out?: string | null;
}

export const LIMIT_NAMES = ["maxContext", "maxBatch", "kvTokens", "prefillChunk", "blockSize"] as const;
export type LimitName = (typeof LIMIT_NAMES)[number];

const HELP = "schema/model.schema.json describes every key, `ernie-compile build --help` the flags";

/** The same depth below the project's root in src and in dist. */
const SCHEMA_URL = new URL("../../schema/model.schema.json", import.meta.url);

let loaded: { readonly schema: JsonObject; readonly validate: ValidateFunction<RequestFile> } | undefined;

function load(): NonNullable<typeof loaded> {
  if (!loaded) {
    const schema = JSON.parse(readFileSync(SCHEMA_URL, "utf8")) as JsonObject;
    loaded = { schema, validate: new Ajv({ allowUnionTypes: true }).compile<RequestFile>(schema) };
  }
  return loaded;
}

/** `placeOf` names where the value with this path (`limits.maxContext`; "" for the whole) was written. */
export function checkRequest(value: JsonObject, placeOf: (path: string) => string): RequestFile {
  const { schema, validate } = load();
  if (validate(value)) return value;
  const error = validate.errors?.[0] as ErrorObject;
  const path = error.instancePath.slice(1).replaceAll("/", ".");
  if (error.keyword === "additionalProperties") {
    const key = String(error.params.additionalProperty);
    throw unknownKey(key, path, schema, placeOf);
  }
  if (error.keyword === "required") {
    const key = String(error.params.missingProperty);
    throw new Diagnostic({
      code: "request-missing-key",
      message: `found no ${key}, expected it in a compile request`,
      place: placeOf(key),
      hint: HELP,
    });
  }
  throw new Diagnostic({
    code: "request-value",
    message: `found ${describeJson(at(value, path))}, expected ${expected(error)}`,
    place: placeOf(path),
    hint: hintFor(error, at(value, path)),
  });
}

function unknownKey(key: string, path: string, schema: JsonObject, placeOf: (path: string) => string): Diagnostic {
  const owner = path === "" ? schema : at(schema, `properties.${path}`);
  const properties = isJsonObject(owner) && isJsonObject(owner.properties) ? Object.keys(owner.properties) : [];
  const meant = nearest(key, properties);
  const name = describeJson(key);
  return new Diagnostic({
    code: "request-unknown-key",
    message: `found the unknown key ${name}, expected ${properties.filter((known) => known !== "$schema").join(", ")}`,
    place: placeOf(path === "" ? key : `${path}.${key}`),
    hint: meant === undefined ? HELP : `did you mean ${meant}?`,
  });
}

function expected({ keyword, params, message }: ErrorObject): string {
  switch (keyword) {
    case "enum":
      return `one of ${(params.allowedValues as readonly Json[]).join(", ")}`;
    case "type":
      return `a value of type ${[params.type].flat().join(" or ")}`;
    case "minimum":
      return `at least ${params.limit}`;
    case "maximum":
      return `at most ${params.limit}`;
    case "multipleOf":
      return `a multiple of ${params.multipleOf}`;
    case "minLength":
      return "a text that is not empty";
    case "pattern":
      return "pack or synthetic:<seed>, the seed being a number of at most 10 digits";
    default:
      return message ?? "another value";
  }
}

function hintFor({ keyword, params }: ErrorObject, value: Json | undefined): string {
  const meant = keyword === "enum" && typeof value === "string" ? nearest(value, params.allowedValues as readonly string[]) : undefined;
  return meant === undefined ? HELP : `did you mean ${meant}?`;
}

function at(value: Json | undefined, path: string): Json | undefined {
  return path === ""
    ? value
    : path.split(".").reduce<Json | undefined>((found, key) => (isJsonObject(found) ? found[key] : undefined), value);
}
