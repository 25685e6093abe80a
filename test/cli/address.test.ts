// How a command reaches an agent that speaks TLS, and what it says where it cannot.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { accessFiles, COMPUTE, MONITOR, type AccessFiles } from "../support/access.ts";
import { startAgent, type TestAgent } from "../support/agent.ts";
import { Authority } from "../support/certificates.ts";
import { testDatabase } from "../support/database.ts";
import { agentAddress } from "../../src/cli/client/agent-address.ts";
import { storageNode } from "../support/explain.ts";

const stack = new AsyncDisposableStack();
let files: AccessFiles;
let agent: TestAgent;
let env: Readonly<Record<string, string>>;

beforeAll(async () => {
  const database = stack.use(await testDatabase());
  files = stack.use(await accessFiles());
  const target = { socket: join(files.folder, "nobody"), fabricDisks: "" };
  env = { ...files.env, STORAGE_NODE_SOCKET: join(files.folder, "agent.sock") };
  agent = stack.use(await startAgent({ url: database.url, target }, env));
});

afterAll(async () => {
  await stack.disposeAsync();
});

/** The options for TLS with a certificate of that name. */
async function tls(name: string): Promise<readonly string[]> {
  const { cert, key } = await files.certificate(name);
  const [certFile, keyFile] = [join(files.folder, "client.crt"), join(files.folder, "client.key")];
  await writeFile(certFile, cert);
  await writeFile(keyFile, key);
  return ["--ca", files.paths.ca, "--cert", certFile, "--key", keyFile];
}

const localhost = () => agent.address.replace("127.0.0.1", "localhost");

it("in the environment of the agent a command uses its Unix socket", async () => {
  const { code, out } = await storageNode(["status"], { env });
  expect(code).toBe(0);
  expect(out).toContain(`node node-1 at ${env["STORAGE_NODE_SOCKET"]}: `);
});

it("over TLS the node is compared with the name or the address that was asked for", async () => {
  const options = await tls(MONITOR);
  for (const address of [agent.address, localhost()]) {
    const { code, out } = await storageNode(["status", "--address", address, ...options]);
    expect(code).toBe(0);
    expect(out).toContain(`node node-1 at ${address}: `);
  }
  const other = [...options, "--server-name", "another.example"];
  const refused = await storageNode(["status", "--address", localhost(), ...other]);
  expect(refused.code).toBe(1);
  expect(refused.err).toMatch(/does not match certificate's altnames/);
  const { code } = await storageNode(
    ["status", "--address", agent.address, ...options, "--server-name", "localhost"],
    { env },
  );
  expect(code).toBe(0);
});

it("a refusal is printed as the agent words it", async () => {
  const at = ["status", "--address", localhost()];
  const compute = await storageNode([...at, ...(await tls(COMPUTE))]);
  expect(compute).toMatchObject({ code: 1, out: "" });
  expect(compute.err).toContain(`${COMPUTE} is compute`);
  const nobody = await storageNode([...at, "--ca", files.paths.ca]);
  expect(nobody.err).toContain("this call needs a client certificate");
});

it("an agent with a certificate of an unknown CA is not spoken to", async () => {
  const ca = join(files.folder, "other-ca.crt");
  await writeFile(ca, (await Authority.root("other")).pem);
  const { code, err } = await storageNode(["status", "--address", localhost(), "--ca", ca]);
  expect(code).toBe(1);
  expect(err).toMatch(/nothing answers at localhost:\d+; .*certificate/);
});

it.each<[string[], RegExp]>([
  [["--socket", "x", "--address", "y:1"], /--socket excludes --address/],
  [["--cert", "x"], /--cert and --key belong together/],
  [["--cert", "x", "--key", "y"], /need --ca/],
  [["--ca", "/nowhere"], /--ca: .*nowhere/],
])("status %j exits with 64: %s", async (options, words) => {
  const { code, err } = await storageNode(["status", ...options]);
  expect(code).toBe(64);
  expect(err).toMatch(words);
});

it("without TLS, to an agent that speaks it, the option is named", async () => {
  const { code, err } = await storageNode(["status", "--address", agent.address]);
  expect(code).toBe(1);
  expect(err).toContain("If it speaks TLS, --ca is needed.");
});

it("without a socket, in the environment of an agent that speaks TLS, the options are named", async () => {
  const { code, err } = await storageNode(["status"], { env: files.env });
  expect(code).toBe(64);
  expect(err).toMatch(/--ca, --cert and --key are needed, or STORAGE_NODE_SOCKET/);
});

it("what a user is told to call with grpcurl reaches the agent as the command does", async () => {
  expect(agentAddress({ socket: "/run/agent.sock" }, {}).grpcurl).toBe(
    "-plaintext -unix /run/agent.sock",
  );
  const [, ca = "", , cert = "", , key = ""] = await tls(MONITOR);
  const secure = agentAddress({ address: "node.example:50051", ca, cert, key }, {});
  expect(secure.grpcurl).toBe(`-cacert ${ca} -cert ${cert} -key ${key} node.example:50051`);
  expect(agentAddress({ address: "127.0.0.1:50051" }, {}).grpcurl).toBe(
    "-plaintext 127.0.0.1:50051",
  );
});
