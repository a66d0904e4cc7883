/**
 * What the compiler says when it refuses something: a code, a place, found against expected, a way out.
 * Three kinds that look different on purpose: the user's input, something not supported yet, and our own bug.
 */

export type DiagnosticKind = "input" | "unsupported" | "environment" | "bug";

export interface DiagnosticInit {
  /** Stable kebab-case code, e.g. `config-missing-field`. */
  readonly code: string;
  /** One sentence: what was found against what was expected. */
  readonly message: string;
  /** File, key, tensor or op that it is about, e.g. `models/config.json: hidden_size`. */
  readonly place?: string | undefined;
  /** A way out: what the user can do. */
  readonly hint?: string | undefined;
  readonly kind?: DiagnosticKind;
  readonly cause?: unknown;
}

/** The same in every copy of this file: a package carries one of its own in host.cjs, and the command line must know its errors. */
const BRAND = Symbol.for("ernie-compile.Diagnostic");

export class Diagnostic extends Error {
  static override [Symbol.hasInstance](value: unknown): boolean {
    return typeof value === "object" && value !== null && BRAND in value;
  }

  get [BRAND](): true {
    return true;
  }

  readonly code: string;
  readonly place: string | undefined;
  readonly hint: string | undefined;
  readonly kind: DiagnosticKind;
  /** The message without place and hint. */
  readonly summary: string;

  constructor(init: DiagnosticInit) {
    super(render(init), init.cause === undefined ? undefined : { cause: init.cause });
    this.name = "Diagnostic";
    this.code = init.code;
    this.summary = init.message;
    this.place = init.place;
    this.hint = init.hint;
    this.kind = init.kind ?? "input";
  }

  toJSON(): Record<string, unknown> {
    return { code: this.code, kind: this.kind, message: this.summary, place: this.place ?? null, hint: this.hint ?? null };
  }
}

/** A bug of ours: an invariant that does not hold, with the command that repeats it when the caller knows one. */
export function bug(message: string, place?: string): Diagnostic {
  return new Diagnostic({
    code: "internal",
    kind: "bug",
    message,
    place,
    hint: "this is a bug in ernie-compile: please report it with the command that you ran",
  });
}

/** For the end of a switch over a union: a type error when a case is missing, a bug report when one slips through. */
export function unreachable(value: never): never {
  throw bug(`unexpected ${JSON.stringify(value)}`);
}

function render({ code, message, place, hint, kind }: DiagnosticInit): string {
  const label = kind === "unsupported" ? `${code} (not yet supported)` : kind === "bug" ? `${code} (bug)` : code;
  return [`${label}: ${visible(message)}`, place ? `  --> ${visible(place)}` : "", hint ? `  hint: ${visible(hint)}` : ""]
    .filter(Boolean)
    .join("\n");
}

/** Strings from a model folder can hold anything: control characters are shown, never sent to a terminal. */
function visible(text: string): string {
  return text.replace(
    /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
