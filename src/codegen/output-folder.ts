/**
 * The folder that a package is built into: who may write there, and how a build becomes visible. What is in a package is package.ts's business.
 *
 * A build is written to `build-tmp-…`, renamed to `build-<hash>`, and counts from the moment that manifest.json, which names it, is renamed into
 * place: a build that is killed at any point leaves the old package or the new one. Builds that no manifest names are removed by the next build,
 * not by this one, because a running program may still read from them. One lock file makes builds into one folder exclude each other.
 */

import { randomBytes } from "node:crypto";
import { link, mkdir, open, readdir, readFile, rename, rm, rmdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Diagnostic } from "../diagnostics.js";
import { isAlive } from "../toolchain/cache.js";
import { fileError, makeFolder } from "../weights/file.js";

export const MANIFEST = "manifest.json";
/** Of the manifest; the runtime reads this one only. */
export const PACKAGE_FORMAT = 1;
export const PACKAGE_MAKER = "ernie-compile";
const LOCK = ".ernie-compile.lock";
/** Files beside the build folder, which `import` and `require` of the package folder find. */
export const ROOT_FILES = ["index.js", "index.cjs", "index.d.ts", "index.d.cts", "package.json"] as const;
export type RootFile = (typeof ROOT_FILES)[number];

/** The folder of one build; the same build again gets a number. */
export const BUILD_DIR = /^build-[0-9a-f]{16}(-[0-9]{1,4})?$/;
const STAGING_DIR = /^build-tmp-[0-9a-f]{12}$/;
const STAGING_FILE = /^\.tmp-[0-9a-f]{12}$/;

export interface StagedPackage {
  /** Folder to write the build's files to. */
  readonly dir: string;
  /** Makes the build visible, with these files at the root. The manifest, which is given the build's folder name, comes last and is the commit. */
  commit(hash: string, rootFiles: ReadonlyMap<RootFile, string>, manifest: (build: string) => string): Promise<string>;
}

/** Runs `work` as the only build into `out`; what it leaves uncommitted is removed. */
export async function withOutputFolder<T>(out: string, work: (staged: StagedPackage) => Promise<T>): Promise<T> {
  await checkOutputFolder(out);
  let made: string | undefined;
  try {
    made = await makeFolder(out);
    const unlock = await lock(out);
    try {
      // Again, now that nobody else writes here.
      await checkOutputFolder(out);
      await removeStale(out);
      const dir = join(out, `build-tmp-${randomBytes(6).toString("hex")}`);
      await mkdir(dir);
      try {
        return await work({ dir, commit: (hash, rootFiles, manifest) => commit(out, dir, hash, rootFiles, manifest) });
      } finally {
        await rm(dir, { recursive: true, force: true });
      }
    } finally {
      await unlock();
    }
  } catch (error) {
    if (made !== undefined) await removeEmpty(out, made);
    // A compile that fails says so itself; what is left are errors of the file system.
    if (error instanceof Error && "syscall" in error) throw fileError(error, "path" in error ? String(error.path) : out);
    throw error;
  }
}

/** Folders that a failed build made, from `out` up to `made`, unless somebody put something there meanwhile. */
async function removeEmpty(out: string, made: string): Promise<void> {
  for (let folder = out; folder.length >= made.length; folder = dirname(folder)) {
    const removed = await rmdir(folder).then(
      () => true,
      () => false,
    );
    if (!removed) return;
  }
}

/** A folder is ours when it is empty, when it holds a manifest of ours, or what a first build that was killed left. Anything else in it is somebody's. */
export async function checkOutputFolder(out: string): Promise<void> {
  let names: string[];
  try {
    names = await readdir(out);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    if ((error as NodeJS.ErrnoException).code === "ENOTDIR") throw foreign(out, "it is a file");
    throw fileError(error, out);
  }
  const isOurs = (name: string): boolean =>
    name === MANIFEST ||
    name === LOCK ||
    (ROOT_FILES as readonly string[]).includes(name) ||
    BUILD_DIR.test(name) ||
    STAGING_DIR.test(name) ||
    STAGING_FILE.test(name) ||
    isStolenLock(name);
  const others = names.filter((name) => !isOurs(name)).sort();
  if (others.length > 0)
    throw foreign(out, `it holds ${JSON.stringify(others[0])}${others.length > 1 ? ` and ${others.length - 1} more` : ""}`);
  const bound = names.filter((name) => (ROOT_FILES as readonly string[]).includes(name));
  if (names.includes(MANIFEST)) {
    if ((await readManifestBuild(out)) === undefined) throw foreign(out, "its manifest.json is not a package's");
  } else if (bound.length > 0 && !names.some((name) => BUILD_DIR.test(name))) {
    throw foreign(out, `it holds ${JSON.stringify(bound[0])} but no manifest.json`);
  }
}

function foreign(out: string, found: string): Diagnostic {
  return new Diagnostic({
    code: "output-foreign",
    message: `the output folder is neither empty nor a package: ${found}`,
    place: out,
    hint: "name an empty or new folder with -o",
  });
}

/** The build folder that the manifest names; undefined where there is none, or it is not ours. */
export async function readManifestBuild(out: string): Promise<string | undefined> {
  try {
    const { compiler, build } = JSON.parse(await readFile(join(out, MANIFEST), "utf8")) as {
      compiler?: { name?: unknown };
      build?: unknown;
    };
    return compiler?.name === PACKAGE_MAKER && typeof build === "string" && BUILD_DIR.test(build) ? build : undefined;
  } catch {
    return undefined;
  }
}

async function removeStale(out: string): Promise<void> {
  const current = await readManifestBuild(out);
  for (const name of await readdir(out)) {
    const stale = (BUILD_DIR.test(name) && name !== current) || STAGING_DIR.test(name) || STAGING_FILE.test(name) || isStolenLock(name);
    if (stale) await rm(join(out, name), { recursive: true, force: true });
  }
}

async function commit(
  out: string,
  dir: string,
  hash: string,
  rootFiles: ReadonlyMap<RootFile, string>,
  manifest: (build: string) => string,
): Promise<string> {
  // The same build again may stand there, whole or damaged, and the manifest may name it: it stays until the manifest names the new one.
  let build = `build-${hash}`;
  for (let i = 2; await exists(join(out, build)); i++) build = `build-${hash}-${i}`;
  await rename(dir, join(out, build));
  for (const [name, text] of rootFiles) await replaceFile(out, name, text);
  await replaceFile(out, MANIFEST, manifest(build));
  return join(out, build);
}

/** Writes beside, flushes, and renames: after a crash of the machine too, the file is the old one or the new one. */
async function replaceFile(out: string, name: string, text: string): Promise<void> {
  const temporary = join(out, `.tmp-${randomBytes(6).toString("hex")}`);
  try {
    const handle = await open(temporary, "wx");
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, join(out, name));
  } finally {
    await rm(temporary, { force: true });
  }
}

async function exists(path: string): Promise<boolean> {
  return readdir(path).then(
    () => true,
    () => false,
  );
}

function isStolenLock(name: string): boolean {
  return name.startsWith(`${LOCK}.`);
}

/** Who holds the lock: a process, and when it started, since numbers of processes come again. */
async function ownLockText(): Promise<string> {
  return `${process.pid} ${await startTime(process.pid)} ${randomBytes(6).toString("hex")}\n`;
}

/** Field 22 of /proc/<pid>/stat, counted after the name in parentheses. */
async function startTime(pid: number): Promise<string> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
  return text.slice(text.lastIndexOf(")") + 2).split(" ")[19] ?? "unknown";
}

async function lock(out: string): Promise<() => Promise<void>> {
  const path = join(out, LOCK);
  const text = await ownLockText();
  for (let attempt = 0; attempt < 10; attempt++) {
    if (await createLock(path, text)) {
      return async () => {
        if ((await readFile(path, "utf8").catch(() => "")) === text) await rm(path, { force: true });
      };
    }
    const held = await readFile(path, "utf8").catch(() => undefined);
    if (held === undefined) continue;
    const [pid = "", started = ""] = held.trim().split(" ");
    if (isAlive(Number(pid)) && (await startTime(Number(pid))) === started) {
      throw new Diagnostic({
        code: "output-locked",
        kind: "environment",
        message: `another build (process ${pid}) is writing to this folder`,
        place: out,
        hint: "wait for it, or build into another folder with -o",
      });
    }
    await stealLock(path, held);
  }
  throw new Diagnostic({
    code: "output-locked",
    kind: "environment",
    message: "other builds keep taking the lock of this folder",
    place: out,
    hint: "try again, or build into another folder with -o",
  });
}

/** The lock appears with its text in it, or not at all: a link to a file that is written already. */
async function createLock(path: string, text: string): Promise<boolean> {
  const own = `${path}.${randomBytes(6).toString("hex")}`;
  try {
    await writeFile(own, text, { flag: "wx" });
    await link(own, path);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // ENOENT: the build that holds the lock took our file for a dead build's.
    if (code === "EEXIST" || code === "ENOENT") return false;
    throw error;
  } finally {
    await rm(own, { force: true });
  }
}

/** Takes a dead owner's lock away. What was moved may be a newer lock than the one judged dead: then it is put back. */
async function stealLock(path: string, dead: string): Promise<void> {
  const aside = `${path}.${randomBytes(6).toString("hex")}`;
  try {
    await rename(path, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  if ((await readFile(aside, "utf8")) !== dead) await link(aside, path).catch(() => undefined);
  await rm(aside, { force: true });
}
