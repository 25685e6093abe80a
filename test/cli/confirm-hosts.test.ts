// `storage-node confirm-hosts`, on an agent whose database was restored from a backup.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { randomUUID } from "node:crypto";
import { pino } from "pino";
import { Writable } from "node:stream";
import { describe, expect, it } from "vitest";
import { refusal, call, type TestAgent } from "../support/agent.ts";
import { storageNode } from "../support/explain.ts";
import { exportsAre, onHold, restoredNode, type RestoredNode } from "../support/restored-node.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { GIB, HOST, idOf, provision } from "../support/volumes.ts";

const SECOND = "nqn.2026-11.io.host:second";
const HOSTS = [HOST, SECOND].toSorted();

/** An agent after the hold, with a volume for two hosts and one for any host, and its log. */
async function unconfirmed(
  act: (given: {
    readonly node: RestoredNode;
    readonly agent: TestAgent;
    readonly log: () => string;
    readonly one: { readonly id: string; readonly nqn: string };
    readonly open: { readonly id: string; readonly nqn: string };
    readonly confirm: (...args: readonly string[]) => ReturnType<typeof storageNode>;
    readonly typing: (typed: string) => ReturnType<typeof storageNode>;
  }) => Promise<void>,
): Promise<void> {
  await using node = await restoredNode();
  const newest = await node.emptyDatabase();
  const sizeBytes = GIB / 16n;
  const [one, open] = await node.withAgent(newest, async (agent) => {
    await agent.ready();
    const first = await provision(agent, { sizeBytes, allowedHostNqns: HOSTS });
    const any = { sizeBytes, allowedHostNqns: [], allowAnyHost: true };
    return [first, await provision(agent, any)].map((lvol) => ({
      id: idOf(lvol),
      nqn: lvol.status?.nqn ?? "",
    }));
  });
  if (one === undefined || open === undefined) throw new Error("no volumes");
  const backup = await node.backup(newest);
  await node.withAgent(newest, async (agent) => {
    await agent.ready();
    await provision(agent, { sizeBytes });
  });
  let text = "";
  const sink = new Writable({
    write: (chunk: Buffer, _encoding, done) => {
      text += chunk.toString();
      done();
    },
  });
  await node.withAgent(
    backup,
    async (agent) => {
      await onHold(agent);
      expect(await node.rebuild(backup, "--apply")).toMatchObject({ code: 0 });
      await agent.ready();
      const at = ["--address", agent.address];
      await act({
        node,
        agent,
        one,
        open,
        log: () => text,
        confirm: (...args) => storageNode(["confirm-hosts", ...args, ...at]),
        typing: (typed) => storageNode(["confirm-hosts", "--all", ...at], { typed }),
      });
    },
    pino({ level: "info" }, sink),
  );
}

describe("storage-node confirm-hosts", () => {
  it("--file confirms what its lines name, and the log says who and why", async () => {
    await unconfirmed(async ({ node, one, open, confirm, log }) => {
      await using folder = await temporaryFolder();
      const file = join(folder.path, "hosts");
      await writeFile(file, `${one.id} ${HOST}\n\n${open.id} *\n`);
      const said = await confirm("--file", file, "--reason", "checked with the tenants");
      expect(said).toEqual({
        code: 0,
        out: "confirmed 2 hosts; 1 are still unconfirmed\n",
        err: "",
      });
      await exportsAre(node, [
        [one.nqn, [HOST]],
        [open.nqn, ["*"]],
      ]);
      const line = log()
        .split("\n")
        .find((text) => text.includes('"intent":"confirmHosts"'));
      expect(JSON.parse(line ?? "{}")).toMatchObject({
        reason: "checked with the tenants",
        actor: expect.stringMatching(/^tcp:127\.0\.0\.1:\d+$/),
        confirmations: [
          { id: one.id, hosts: [HOST] },
          { id: open.id, hosts: ["*"] },
        ],
      });
    });
  });

  it("--file confirms nothing if a line is wrong or names a stranger", async () => {
    await unconfirmed(async ({ node, one, open, confirm, agent }) => {
      await using folder = await temporaryFolder();
      const file = join(folder.path, "hosts");
      await writeFile(file, `${one.id} ${HOST}\n${open.id}\n`);
      const wrong = await confirm("--file", file);
      expect(wrong).toMatchObject({ code: 64, out: "" });
      expect(wrong.err).toContain("hosts:2:");
      await writeFile(file, `${one.id} ${HOST}\n${open.id} ${HOST}\n`);
      const stranger = await confirm("--file", file);
      expect(stranger).toMatchObject({ code: 1, out: "" });
      expect(stranger.err).toContain(`is not allowed by volume ${open.id}`);
      const { client } = agent;
      const ask = client.confirmHosts.bind(client);
      const bad = { confirmations: [{ lvolId: "x", hostNqns: ["y"] }], reason: "" };
      expect(await refusal(call(client, ask, bad))).toMatchObject({
        reason: "INVALID_FIELD",
        fields: ["reason", "confirmations[0].host_nqns[0]", "confirmations[0].lvol_id"],
      });
      const absent = { confirmations: [{ lvolId: randomUUID(), hostNqns: [] }], reason: "r" };
      expect((await refusal(call(client, ask, absent))).reason).toBe("NOT_FOUND");
      await exportsAre(node, [
        [one.nqn, []],
        [open.nqn, []],
      ]);
    });
  });

  it("--all lists every host and asks for the word yes", async () => {
    await unconfirmed(async ({ node, one, open, confirm, typing }) => {
      expect(await confirm("--all")).toMatchObject({
        code: 1,
        err: expect.stringContaining("--yes"),
      });
      const declined = await typing("y");
      expect(declined).toMatchObject({
        code: 1,
        err: expect.stringContaining("nothing was confirmed"),
      });
      for (const host of HOSTS) expect(declined.out).toContain(`${one.id} ${host}`);
      expect(declined.out).toContain(`${open.id} *`);
      await exportsAre(node, [
        [one.nqn, []],
        [open.nqn, []],
      ]);
      expect(await typing("yes")).toMatchObject({ code: 0 });
      const again = await confirm("--all", "--yes", "--output", "json");
      expect(JSON.parse(again.out)).toEqual({ confirmed: 0, unconfirmed: 0 });
      await exportsAre(node, [
        [one.nqn, HOSTS],
        [open.nqn, ["*"]],
      ]);
    });
  });
});
