/** `ernie-compile verify`: checks every byte of a package against its manifest, weights too. */

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { lstat, readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { Command } from "commander";
import { Diagnostic } from "../diagnostics.js";
import { packageNotFound, readManifest } from "./manifest.js";
import { EXIT, formatBytes, printJson, printLine } from "./terminal.js";

export interface Finding {
  readonly file: string;
  readonly problem: string;
}

export function registerVerify(program: Command): void {
  program
    .command("verify")
    .description("check every byte of a package against its manifest")
    .argument("<package>", "folder that `build` made")
    .option("--json", "print one JSON object")
    .addHelpText("after", "\nExample:\n  ernie-compile verify ./ernie")
    .action(async (folder: string, { json }: { json?: boolean }) => {
      const { findings, files, bytes } = await verifyPackage(resolve(folder));
      if (json) printJson({ ok: findings.length === 0, files, bytes, findings });
      else if (findings.length === 0) printLine(`${files} files, ${formatBytes(bytes)}: all as built`);
      if (findings.length === 0) return;
      process.exitCode = EXIT.failure;
      if (!json) {
        throw new Diagnostic({
          code: "package-changed",
          place: resolve(folder),
          message: findings.map(({ file, problem }) => `${file}: ${problem}`).join("\n"),
          hint: "build the package again",
        });
      }
    });
}

export async function verifyPackage(root: string): Promise<{ findings: Finding[]; files: number; bytes: number }> {
  const manifest = await readManifest(root);
  const folder = join(root, manifest.build);
  const isFolder = await lstat(folder).then(
    (info) => info.isDirectory(),
    () => false,
  );
  if (!isFolder) throw packageNotFound(root, manifest.build);
  const findings: Finding[] = [];
  const expected = [
    ...Object.entries(manifest.root).map(([file, entry]) => [file, join(root, file), entry] as const),
    ...Object.entries(manifest.files).map(([file, entry]) => [file, join(folder, file), entry] as const),
  ];
  for (const [file, path, entry] of expected) {
    const problem = await check(path, entry);
    if (problem) findings.push({ file, problem });
  }
  for (const file of await filesBelow(folder))
    if (!Object.hasOwn(manifest.files, file)) findings.push({ file, problem: "not in the manifest" });
  return { findings, files: expected.length, bytes: expected.reduce((sum, [, , { bytes }]) => sum + bytes, 0) };
}

async function check(path: string, { sha256, bytes }: { sha256: string; bytes: number }): Promise<string | undefined> {
  const info = await lstat(path).catch(() => undefined);
  if (!info) return "missing";
  if (!info.isFile()) return "not a plain file";
  if (info.size !== bytes) return `found ${info.size} bytes, expected ${bytes}`;
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 22 })) hash.update(chunk as Buffer);
  const found = hash.digest("hex");
  return found === sha256 ? undefined : `found sha256 ${found}, expected ${sha256}`;
}

async function filesBelow(folder: string, prefix = ""): Promise<string[]> {
  const entries = await readdir(join(folder, prefix), { withFileTypes: true });
  const lists = await Promise.all(
    entries.map((entry) => (entry.isDirectory() ? filesBelow(folder, `${prefix}${entry.name}/`) : [`${prefix}${entry.name}`])),
  );
  return lists.flat();
}
