/** Reads a package's manifest.json. What the runtime checks at load is its own business (runtime/src/manifest.cpp); this serves the command line. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { Ajv, type ErrorObject, type ValidateFunction } from "ajv";
import { BUILD_DIR } from "../codegen/output-folder.js";
import type { ManifestFile } from "../codegen/package.js";
import { Diagnostic } from "../diagnostics.js";
import { type Json, readJsonObject } from "../frontend/json.js";

export interface Manifest {
  readonly build: string;
  readonly build_id: string;
  readonly target: { readonly arch: string; readonly activations: string; readonly target: string };
  readonly model: { readonly architecture: string; readonly parameters: number; readonly layers: number; readonly vocabSize: number };
  readonly limits: { readonly [name: string]: number };
  readonly memory: {
    readonly weights: number;
    readonly arena: number;
    readonly kvBytesPerToken: number;
    readonly byContext: { readonly [tokens: string]: number };
  };
  readonly programs: readonly { readonly name: string; readonly kind: string; readonly launches: number; readonly arenaBytes: number }[];
  readonly kernels: readonly {
    readonly name: string;
    readonly op: string;
    readonly kernel: string;
    readonly launches: { readonly [program: string]: number };
  }[];
  /** Files of the build folder. */
  readonly files: { readonly [path: string]: ManifestFile };
  /** Files beside it that run. */
  readonly root: { readonly [path: string]: ManifestFile };
}

const text = { type: "string" } as const;
const number = { type: "number", minimum: 0 } as const;
const record = (values: object) => ({ type: "object", additionalProperties: values });
/** More keys are fine: a manifest says more than the command line reads. */
const object = (properties: { readonly [name: string]: object }) => ({ type: "object", required: Object.keys(properties), properties });
const list = (items: object) => ({ type: "array", items });
/** Nothing in a manifest leads out of the package. */
const files = {
  type: "object",
  propertyNames: { pattern: "^(?!(.*/)?\\.{1,2}(/|$))[\\w.-]+(/[\\w.-]+)*$" },
  additionalProperties: object({
    sha256: { type: "string", pattern: "^[0-9a-f]{64}$" },
    bytes: { type: "integer", minimum: 0, maximum: Number.MAX_SAFE_INTEGER },
  }),
};

const SCHEMA = object({
  format: { const: 1 },
  build: { type: "string", pattern: BUILD_DIR.source },
  build_id: text,
  target: object({ arch: text, activations: text, target: text }),
  model: object({ architecture: text, parameters: number, layers: number, vocabSize: number }),
  limits: record(number),
  memory: object({ weights: number, arena: number, kvBytesPerToken: number, byContext: record(number) }),
  programs: list(object({ name: text, kind: text, launches: number, arenaBytes: number })),
  kernels: list(object({ name: text, op: text, kernel: text, launches: record(number) })),
  files,
  root: files,
});

export async function readManifest(root: string): Promise<Manifest> {
  const place = join(root, "manifest.json");
  if (!existsSync(place)) throw packageNotFound(root, "manifest.json");
  const value = await readJsonObject(place).catch((error: unknown) => {
    throw error instanceof Diagnostic ? changed(error.place ?? place, error.summary, error) : error;
  });
  return checkManifest(value, place);
}

let validator: ValidateFunction<Manifest> | undefined;

export function checkManifest(value: Json, place: string): Manifest {
  validator ??= new Ajv({ strict: false }).compile<Manifest>(SCHEMA);
  const validate = validator;
  if (validate(value)) return value;
  const { instancePath, message = "what a build writes", propertyName } = validate.errors?.[0] as ErrorObject;
  const key = propertyName === undefined ? instancePath.slice(1) : JSON.stringify(propertyName);
  throw changed(place, `found ${key === "" ? "a value" : `${key.slice(0, 120)}, which`} is not as a build writes it: it ${message}`);
}

function changed(place: string, message: string, cause?: unknown): Diagnostic {
  return new Diagnostic({ code: "package-changed", place, message, hint: "build the package again with `ernie-compile build`", cause });
}

/** What to say of a folder that lacks a file that every package has. */
export function packageNotFound(root: string, file: string): Diagnostic {
  return new Diagnostic({
    code: "package-not-found",
    place: root,
    message: `found no ${file} in this folder, expected a package that \`ernie-compile build\` made`,
    hint: "run `ernie-compile build <model> -o <folder>` first",
  });
}
