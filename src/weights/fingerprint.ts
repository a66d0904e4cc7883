/**
 * Tells checkpoints apart without reading them whole: sizes, headers and evenly spaced samples of the bytes. Enough to name a build by; what guards a
 * package's bytes are the SHA-256 sums in its manifest.
 */

import { createHash } from "node:crypto";
import type { Checkpoint } from "./checkpoint.js";
import { readFully, withFile } from "./file.js";

const SAMPLES = 1024;
const SAMPLE_BYTES = 4096;

/** Equal for equal files, wherever they lie and whatever the folder is called. */
export async function fingerprintCheckpoint({ files }: Pick<Checkpoint, "files">): Promise<string> {
  const hash = createHash("sha256");
  for (const { path, dataStart } of files) {
    await withFile(path, async (file) => {
      hash.update(`${file.bytes} ${dataStart}\n`);
      const header = new Uint8Array(dataStart);
      await readFully(file, header, 0);
      hash.update(header);
      const data = file.bytes - dataStart;
      if (data <= SAMPLES * SAMPLE_BYTES) {
        const all = new Uint8Array(data);
        await readFully(file, all, dataStart);
        hash.update(all);
        return;
      }
      const sample = new Uint8Array(SAMPLE_BYTES);
      for (let i = 0; i < SAMPLES; i++) {
        await readFully(file, sample, dataStart + Math.floor(((data - SAMPLE_BYTES) * i) / (SAMPLES - 1)));
        hash.update(sample);
      }
    });
  }
  return hash.digest("hex");
}
