// Writes the kept corpus of loader_fuzz: packages in one string, whole ones and damaged ones. `node test/fuzz/loader_seeds.mjs`
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("corpus/loader/", import.meta.url));
mkdirSync(folder, { recursive: true });
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const join = (files) => Buffer.concat(files.flatMap(([name, bytes]) => [Buffer.from(`${name}\0`), Buffer.from(bytes), Buffer.from("\0\0")]));
const manifest = (files, more = {}) =>
  JSON.stringify({
    format: 1,
    build: "build-0",
    build_id: "fuzz",
    files: Object.fromEntries(files.map(([name, bytes]) => [name, { sha256: sha256(bytes), bytes: bytes.length }])),
    ...more,
  });
const save = (name, files, text = manifest(files)) => writeFileSync(`${folder}${name}`, join([["manifest.json", text], ...files]));

// No NUL may be in a file here: it would end it.
const weights = ["weights.safetensors", Buffer.concat([Buffer.alloc(256, " "), Buffer.alloc(64, "w")])];
const library = ["library", Buffer.from("code")];
const text = ["text.json", Buffer.from(JSON.stringify({ format: 1, vocab_size: 400, stop_ids: [2] }))];
const model = ["tokenizer.model", readFileSync(new URL("corpus/tokenizer/not-protobuf", import.meta.url))];

save("whole", [library, text, weights]);
save("ids-only", [library, weights]);
save("bad-tokenizer", [library, model, text, weights]);
save("changed", [library, weights], manifest([["library", Buffer.from("Code")], weights]));
save("short-weights", [library, ["weights.safetensors", weights[1].subarray(0, 300)]], manifest([library, weights]));
save("other-weights", [library, ["weights.safetensors", Buffer.alloc(320, "v")]]);
save("other-build", [library, weights], manifest([library, weights], { build_id: "other" }));
save("leaves-folder", [weights], manifest([["../x", Buffer.from("x")], weights]));
save("no-weights", [library]);
save("missing", [weights], manifest([library, weights]));
