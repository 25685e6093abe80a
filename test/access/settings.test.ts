// The settings of who may call, as `serve` reads them.
import { writeFile } from "node:fs/promises";
import { expect, it } from "vitest";
import { ConfigError, readConfig } from "../../src/config.ts";
import { accessFiles } from "../support/access.ts";

const BASE = { DATABASE_URL: "postgresql:///x", STORAGE_NODE_ID: "node-1" };

function faultsOf(env: Readonly<Record<string, string>>): readonly string[] {
  try {
    readConfig({ ...BASE, ...env });
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.faults;
    throw error;
  }
}

it("without TLS an address that others reach needs the flag, and stays known as unprotected", () => {
  const open = { STORAGE_NODE_LISTEN: "0.0.0.0:1", STORAGE_NODE_HTTP_LISTEN: "[::]:2" };
  expect(faultsOf(open)).toEqual([
    expect.stringMatching(/^STORAGE_NODE_LISTEN: 0\.0\.0\.0 is not loopback: .*TLS_CERT/),
    expect.stringMatching(/^STORAGE_NODE_HTTP_LISTEN: :: is not loopback/),
  ]);
  expect(readConfig({ ...BASE, ...open, STORAGE_NODE_INSECURE: "1" }).unprotected).toEqual([
    "STORAGE_NODE_LISTEN 0.0.0.0:1",
    "STORAGE_NODE_HTTP_LISTEN [::]:2",
  ]);
  expect(readConfig({ ...BASE, STORAGE_NODE_INSECURE: "1" }).unprotected).toEqual([]);
});

it("with TLS any address is served, and the flag is refused", async () => {
  await using files = await accessFiles();
  const env = { ...files.env, STORAGE_NODE_LISTEN: "0.0.0.0:1" };
  const { access, unprotected } = readConfig({ ...BASE, ...env });
  expect(access).toEqual(files.paths);
  expect(unprotected).toEqual([]);
  expect(faultsOf({ ...env, STORAGE_NODE_INSECURE: "1" })).toEqual([
    expect.stringMatching(/^STORAGE_NODE_INSECURE: cannot be 1/),
  ]);
});

it("all four files are needed, and each must be usable", async () => {
  await using files = await accessFiles();
  const { STORAGE_NODE_CLIENTS: _, ...three } = files.env;
  expect(faultsOf(three)).toEqual([
    "STORAGE_NODE_CLIENTS: is needed with STORAGE_NODE_TLS_CERT, STORAGE_NODE_TLS_KEY, STORAGE_NODE_TLS_CA",
  ]);
  await writeFile(files.paths.key, "no key");
  await writeFile(files.paths.clients, '[{"san": "CN=x", "roles": []}]');
  expect(faultsOf(files.env)).toEqual([
    expect.stringMatching(/tls\.key is not the key of .*tls\.crt/),
    expect.stringMatching(
      /clients\.json: \[0\.san\] must be URI:.*; \[0\.roles\] must not be empty/,
    ),
  ]);
});
