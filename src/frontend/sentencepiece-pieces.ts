/**
 * The pieces of a tokenizer.model, in order of id: spelling and type, all that the compiler needs to turn names of special tokens into ids. Encoding,
 * scores and every deeper check are the runtime's (runtime/src/sentencepiece.cpp).
 *
 * Format: protobuf message ModelProto of google/sentencepiece; field 1 is a repeated SentencePiece { 1: piece, 2: score, 3: type }, field 2 the trainer's
 * spec, field 3 the normalizer's.
 */

import { Diagnostic } from "../diagnostics.js";
import { readFully, withFile } from "../weights/file.js";

export type PieceType = "normal" | "unknown" | "control" | "user_defined" | "unused" | "byte";

export interface Piece {
  readonly text: string;
  readonly type: PieceType;
}

/** As the runtime's limits: real files have 0.1 to 5 MB. */
const MAX_BYTES = 32 * 2 ** 20;
const MAX_PIECES = 2 ** 20;
const TYPES: { readonly [code: number]: PieceType } = {
  1: "normal",
  2: "unknown",
  3: "control",
  4: "user_defined",
  5: "unused",
  6: "byte",
};

export async function readPieces(path: string): Promise<readonly Piece[]> {
  const bytes = await withFile(path, async (file) => {
    if (file.bytes > MAX_BYTES) throw corrupt(path, `found ${file.bytes} bytes, expected at most ${MAX_BYTES}`);
    const content = new Uint8Array(file.bytes);
    await readFully(file, content, 0);
    return content;
  });
  return parsePieces(bytes, path);
}

export function parsePieces(bytes: Uint8Array, path: string): readonly Piece[] {
  const refuse = (what: string): Diagnostic => corrupt(path, `found ${what}, expected a SentencePiece model`);
  const pieces: Piece[] = [];
  const numbers = new Set<number>();
  for (const field of fields(bytes, refuse)) {
    numbers.add(field.number);
    if (field.number !== 1) continue;
    if (!field.bytes) throw refuse("a piece that is not a message");
    if (pieces.length >= MAX_PIECES) throw refuse(`more than ${MAX_PIECES} pieces`);
    pieces.push(parsePiece(field.bytes, refuse));
  }
  if (pieces.length === 0) throw refuse("no pieces");
  // They come last: a file that was cut between two pieces lacks them.
  if (!numbers.has(2) || !numbers.has(3)) throw refuse("pieces without the specs of trainer and normalizer");
  return pieces;
}

function parsePiece(bytes: Uint8Array, refuse: (what: string) => Diagnostic): Piece {
  let text = "";
  let type: PieceType = "normal";
  for (const field of fields(bytes, refuse)) {
    if (field.number === 1) {
      if (!field.bytes) throw refuse("a piece whose text is a number");
      try {
        text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(field.bytes);
      } catch {
        throw refuse("a piece that is not UTF-8");
      }
    } else if (field.number === 3) {
      const known = TYPES[field.integer];
      if (known === undefined || field.bytes) throw refuse("a piece of an unknown type");
      type = known;
    }
  }
  if (text === "") throw refuse("an empty piece");
  return { text, type };
}

interface Field {
  readonly number: number;
  /** Of a varint; exact to 2^53, which covers every number that is read here. */
  readonly integer: number;
  readonly bytes: Uint8Array | undefined;
}

/** The fields of one message. Wire types: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes. */
function* fields(bytes: Uint8Array, refuse: (what: string) => Diagnostic): Generator<Field> {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = bytes[at++];
      if (byte === undefined) throw refuse("a number that is cut off");
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw refuse("a number of more than 64 bits");
  };
  while (at < bytes.length) {
    const tag = varint();
    const [number, wire] = [Math.floor(tag / 8), tag % 8];
    if (number === 0) throw refuse("a field without a number");
    if (wire === 0) {
      yield { number, integer: varint(), bytes: undefined };
      continue;
    }
    const length = wire === 2 ? varint() : wire === 1 ? 8 : wire === 5 ? 4 : undefined;
    if (length === undefined) throw refuse("a wire type that protobuf doesn't have");
    if (length > bytes.length - at) throw refuse("a field that reaches past its end");
    yield { number, integer: 0, bytes: bytes.subarray(at, at + length) };
    at += length;
  }
}

function corrupt(path: string, message: string): Diagnostic {
  return new Diagnostic({ code: "tokenizer-corrupt", message, place: path, hint: "the file is cut short or damaged: fetch it again" });
}
