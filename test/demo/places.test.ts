// Folder, sockets and port of the demo.
import { once } from "node:events";
import { chmod, lstat, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { expect, test } from "vitest";
import { claimFolder } from "../../src/demo/folder-claim.ts";
import { hostAndPort } from "../../src/api/listen.ts";
import { freeAddress } from "../../src/demo/listen-address.ts";
import { socketFolder } from "../../src/demo/socket-folder.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const signal = new AbortController().signal;

test("of two concurrent claims of a folder one succeeds, and the other names the holder", async () => {
  await using folder = await temporaryFolder();
  const claims = await Promise.allSettled([
    claimFolder(folder.path, { signal }).then((claim) => {
      claim.writeNote({ listen: "127.0.0.1:50051" });
      return claim;
    }),
    claimFolder(folder.path, { signal }),
  ]);
  const reasons = claims.flatMap((claim) => (claim.status === "rejected" ? [claim.reason] : []));
  expect(reasons.map(String)).toEqual([
    expect.stringContaining(
      `another demo is running on ${folder.path}: process ${process.pid}, listening on 127.0.0.1:50051`,
    ),
  ]);
  for (const claim of claims) if (claim.status === "fulfilled") claim.value[Symbol.dispose]();
});

test("a claim waits for a folder that is being released", async () => {
  await using folder = await temporaryFolder();
  const first = await claimFolder(folder.path, { signal });
  const second = claimFolder(folder.path, { signal });
  first[Symbol.dispose]();
  using claim = await second;
  claim.writeNote({ listen: "here" });
  await expect(claimFolder(folder.path, { signal })).rejects.toThrow("listening on here");
});

test("a truncated note does not make a locked folder free", async () => {
  await using folder = await temporaryFolder();
  using first = await claimFolder(folder.path, { signal });
  first.writeNote({});
  await writeFile(join(folder.path, "demo.json"), '{"pid":');
  await expect(claimFolder(folder.path, { signal })).rejects.toThrow(
    new RegExp(`^another demo is running on ${folder.path}$`),
  );
});

test("a port in use is refused with the address and the setting; port 0 gives a free port", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const bound = server.address();
  const port = typeof bound === "object" ? bound?.port : undefined;
  await expect(freeAddress(`127.0.0.1:${port}`)).rejects.toThrow(
    `cannot serve on 127.0.0.1:${port} (set STORAGE_NODE_LISTEN to use another address)`,
  );
  server.close();
  await once(server, "close");
  expect(await freeAddress(`127.0.0.1:${port}`)).toBe(`127.0.0.1:${port}`);
  expect(await freeAddress("127.0.0.1:0")).toMatch(/^127\.0\.0\.1:[1-9]\d*$/);
});

test("a free port is none that the kernel gives to a connection before the agent listens on it", async () => {
  const range = await readFile("/proc/sys/net/ipv4/ip_local_port_range", "utf8");
  const [first = 0, last = 0] = range.split("\t").map(Number);
  const addresses = await Promise.all(Array.from({ length: 20 }, () => freeAddress("127.0.0.1:0")));
  const ports = addresses.map((address) => hostAndPort(address).port);
  expect(ports.filter((port) => port >= first && port <= last)).toEqual([]);
});

test("a folder with too long a path is replaced by a short one, the same at the next start", async () => {
  await using folder = await temporaryFolder();
  const options = {
    wanted: folder.path,
    socketName: "spdk.sock",
    note: join(folder.path, "note"),
    ownerUid: process.getuid?.() ?? 0,
  };
  expect(await socketFolder(options)).toBe(folder.path);

  const deep = { ...options, wanted: join(folder.path, "d".repeat(100)) };
  const short = await socketFolder(deep);
  try {
    expect(Buffer.byteLength(join(short, "spdk.sock"))).toBeLessThanOrEqual(107);
    expect((await lstat(short)).mode & 0o777).toBe(0o700);
    expect(await readFile(options.note, "utf8")).toBe(short);
    expect(await socketFolder(deep)).toBe(short);

    // A remembered folder that others may enter is not used.
    await chmod(short, 0o755);
    const another = await socketFolder(deep);
    expect(another).not.toBe(short);
    // A file in place of the remembered folder is not used.
    await rm(another, { recursive: true });
    await writeFile(another, "");
    const third = await socketFolder(deep);
    expect(third).not.toBe(another);
    await Promise.all([another, third].map((path) => rm(path, { recursive: true })));
  } finally {
    await rm(short, { recursive: true });
  }
});

test("only the wanted or a new folder changes its owner, never the remembered one", async () => {
  await using folder = await temporaryFolder();
  const given: string[] = [];
  const options = {
    wanted: join(folder.path, "run"),
    socketName: "s",
    note: join(folder.path, "note"),
    ownerUid: process.getuid?.() ?? 0,
    give: (path: string) => given.push(path),
  };
  await mkdir(options.wanted);
  await socketFolder(options);
  const short = await socketFolder({ ...options, forbidden: /run/ });
  await socketFolder({ ...options, forbidden: /run/ });
  expect(given).toEqual([options.wanted, short]);
  await rm(short, { recursive: true });
});
