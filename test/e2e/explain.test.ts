// Explain, end to end: for each way in which a volume is not ready, its summary names the cause and
// the cure, and applying the cure makes the volume ready.
import { randomUUID } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import type { ExplainRequest } from "../../src/gen/storagenode/v1/storage_node.ts";
import { buildKernelTree, unplug, type SimulatedDrive } from "../../src/sim/kernel/build-tree.ts";
import type { Kernel } from "../../src/sysfs/kernel.ts";
import { call, refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { DatabaseProxy } from "../support/database-proxy.ts";
import { answers, explainDisk, explainVolume, storageNode } from "../support/explain.ts";
import { loadVfioPci } from "../../src/sim/kernel/build-tree.ts";
import { kernelScenario } from "../support/kernel-scenario.ts";
import {
  REAL_SOCKET,
  startTarget,
  type SimulatedDisk,
  type TestTarget,
} from "../support/target.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { getLvol, GIB, HOST, idOf, provision, remove, stateOf, WAIT } from "../support/volumes.ts";

const NO_HOST_NQN = "nqn.2026-11.io.host:new";

type Scenario = AsyncDisposable & {
  readonly target: TestTarget;
  readonly proxy: DatabaseProxy;
  readonly start: (env?: Readonly<Record<string, string>>, kernel?: Kernel) => Promise<TestAgent>;
};

async function scenario(options: Parameters<typeof startTarget>[0] = {}): Promise<Scenario> {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await testDatabase());
  const proxy = stack.use(await DatabaseProxy.open(database.url));
  const target = stack.use(await startTarget(options));
  return {
    target,
    proxy,
    start: async (env, kernel) => {
      const parts = { url: proxy.url, target, ...(kernel === undefined ? {} : { kernel }) };
      return stack.use(await startAgent(parts, env));
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

const BLOCK = 4096;

function drive(index: number, change: Partial<SimulatedDrive["namespaces"][number]> = {}) {
  return {
    address: `0000:0${index}:00.0`,
    serial: `DRIVE${index}`,
    model: "KERNEL DISK",
    iommuGroup: `${index}`,
    namespaces: [{ sizeBytes: 4n * GIB, blockSizeBytes: BLOCK, ...change }],
  } as const satisfies SimulatedDrive;
}

/** The same drive as an entry of `sim --disks`. */
function simulated({ address, serial, model }: SimulatedDrive): SimulatedDisk {
  const num_blocks = Number(4n * GIB) / BLOCK;
  return { serial, model, block_size: BLOCK, num_blocks, trtype: "PCIe", traddr: address };
}

async function isUp(agent: TestAgent, id: string): Promise<boolean> {
  return stateOf(await getLvol(agent, id)) === "LVOL_STATE_UP";
}

/** Waits until the summary of Explain matches `words`; returns the explanation. */
async function untilExplained(agent: TestAgent, id: string, words: RegExp) {
  let last = await explainVolume(agent, id);
  await until(`the summary says ${words}`, async () => {
    last = await explainVolume(agent, id);
    return words.test(last.summary);
  }).catch((cause: unknown) => {
    throw new Error(`last summary: ${last.summary}; next step: ${last.nextStep}`, { cause });
  });
  return last;
}

describe.skipIf(REAL_SOCKET !== undefined)("Explain of a volume", () => {
  it("without allowed hosts names AllowHost as the cure", async () => {
    await using setup = await scenario();
    const agent = await setup.start();
    await agent.ready();
    const id = idOf(await provision(agent, { allowedHostNqns: [] }));
    const explained = await untilExplained(agent, id, /is UP: no host may connect to it; cure: /);
    expect(explained.summary).toContain(`call AllowHost {"lvolId": "${id}"`);
    expect(answers(explained)).toBe("yyyyNy");
    const { client } = agent;
    const change = { lvolId: id, hostNqn: NO_HOST_NQN, waitTimeout: WAIT };
    await call(client, client.allowHost.bind(client), change);
    const cured = await untilExplained(agent, id, /is UP: /);
    expect(cured.summary).toContain(`${NO_HOST_NQN} may connect`);
    expect(answers(cured)).toBe("yyyyyy");
    expect(cured).toMatchObject({ nextStep: "nothing: all is as wanted", lastError: "" });
  });

  it("whose target is down names the socket, since when, and starting the target as the cure", async () => {
    await using setup = await scenario();
    const agent = await setup.start();
    await agent.ready();
    const id = idOf(await provision(agent));
    await setup.target.kill();
    const explained = await untilExplained(
      agent,
      id,
      /is DEGRADED: the SPDK target does not answer/,
    );
    expect(explained.summary).toContain(`at ${setup.target.socket} since 20`);
    expect(explained.summary).toMatch(
      /(ECONNREFUSED|closed the connection).*cure: start the target/,
    );
    expect(answers(explained)).toBe("N????y");
    expect(explained.nextStep).toBe("nothing: waits for the target");
    await setup.target.restart();
    await until("it is UP again", () => isUp(agent, id));
  });

  it("whose target hangs says that the target accepts requests and does not answer", async () => {
    await using setup = await scenario();
    const agent = await setup.start();
    await agent.ready();
    const id = idOf(await provision(agent));
    await using control = await setup.target.control();
    const { stopped } = await control.stopAt({ when: "before" });
    const asked = explainVolume(agent, id);
    await stopped;
    expect((await asked).summary).toMatch(
      /is UP: the SPDK target at .* does not answer them; cure/,
    );
    await control.resume();
    await untilExplained(agent, id, new RegExp(`is UP: ${HOST} may connect`));
  });

  it("whose drive was unplugged names its serial, its last PCI address, and replugging as the cure", async () => {
    const spec = { drives: [drive(1)] };
    await using stack = new AsyncDisposableStack();
    const kernel = stack.use(await kernelScenario(spec));
    const setup = stack.use(
      await scenario({ drives: { root: kernel.root, disks: spec.drives.map(simulated) } }),
    );
    const env = { STORAGE_NODE_DISK_ALLOW: "model:*", STORAGE_NODE_ROOT: kernel.root };
    const agent = await setup.start(env, kernel.kernel);
    await until("the disk is UP", () => [...agent.node.agent.rows.disks()][0]?.state === "UP");
    const made = await provision(agent);
    const id = idOf(made);
    await setup.target.kill();
    await unplug(kernel.root, "0000:01:00.0");
    await setup.target.restart();
    const explained = await untilExplained(agent, id, /is DEGRADED: its disk DRIVE1 .* is MISSING/);
    expect(explained.summary).toContain("last seen at 0000:01:00.0, there since 20");
    expect(explained.summary).toContain("cure: put the drive with serial DRIVE1 back");
    expect(answers(explained).slice(0, 2)).toBe("N?");
    const disk = await explainDisk(agent, made.status?.diskId ?? "");
    expect(disk.summary).toMatch(/^disk DRIVE1 is MISSING: no PCIe function has the serial/);
    await buildKernelTree(kernel.root, spec);
    await until("it is UP again", () => isUp(agent, id));
    expect((await getLvol(agent, id)).status?.lvolUuid).toBe(made.status?.lvolUuid);
  });

  it("whose fabric disk is no longer served names its last address and restoring it as the cure", async () => {
    await using setup = await scenario({ disks: 1 });
    const agent = await setup.start();
    await agent.ready();
    const made = await provision(agent);
    const id = idOf(made);
    const served = join(dirname(setup.target.fabricDisks), "disks.json");
    const disks = await readFile(served, "utf8");
    await writeFile(served, "[]");
    await setup.target.restart();
    const explained = await untilExplained(agent, id, /its disk SIM0 .* is CLAIMING: .*answered -/);
    expect(explained.summary).toContain("(last seen at 127.0.0.1:9000");
    expect(explained.summary).toContain("cure: make its target answer at 127.0.0.1:9000 again");
    const disk = await explainDisk(agent, made.status?.diskId ?? "");
    expect(disk.summary).toMatch(/cannot be attached at 127.0.0.1:9000 \(nqn.*disk0\): .*answered/);
    await writeFile(served, disks);
    await setup.target.restart();
    await until("it is UP again", () => isUp(agent, id));
  });

  it("whose disk is full names free and needed clusters, and freeing space as the cure", async () => {
    await using setup = await scenario({ disks: 1, diskBytes: 4n * GIB });
    const agent = await setup.start();
    await agent.ready();
    const thin = idOf(await provision(agent));
    const [disk] = [...agent.node.agent.rows.disks()];
    // A foreign lvol takes all but 25 clusters of the store; the promised capacity does not include
    // it.
    const lvsUuid = disk?.lvsUuid ?? "";
    const free = async () => (await setup.target.spdk.getLvstore({ uuid: lvsUuid }))?.freeClusters;
    const other = { lvsUuid, thin: false, clearMethod: "write_zeroes" as const };
    const cluster = disk?.clusterBytes ?? 0n;
    const take = async (lvolName: string, clusters: bigint) =>
      await setup.target.spdk.bdevLvolCreate({ ...other, lvolName, sizeBytes: clusters * cluster });
    const most = await take("other-most", ((await free()) ?? 0n) - 25n);
    const thick = { provisioning: "PROVISIONING_THICK" as const, sizeBytes: GIB };
    const id = idOf(await provision(agent, thick, { wait: false }));
    const explained = await untilExplained(
      agent,
      id,
      /is CREATING: disk SIM0 .* 25 of \d+ clusters/,
    );
    expect(explained.summary).toContain("the thick volume needs 256 (1 GiB); cure: make room");
    await until("the target has refused it", async () => {
      return (await explainVolume(agent, id)).lastError.includes("No space left on device");
    });
    const rest = await take("other-rest", 25n);
    const full = await untilExplained(agent, thin, /is UP: .* 0 of \d+ clusters free/);
    expect(full.summary).toContain("writes fail wherever they need a new one; cure: make room");
    expect(answers(full)).toBe("yNyyyy");
    const asDisk = await explainDisk(agent, disk?.id ?? "");
    expect(asDisk.summary).toMatch(/is UP: it is full: 0 of \d+ clusters free/);
    for (const name of [most, rest]) await setup.target.spdk.bdevLvolDelete({ lvsUuid, name });
    await untilExplained(agent, id, new RegExp(`is UP: ${HOST} may connect`));
    expect(answers(await explainVolume(agent, thin))).toBe("yyyyyy");
  });

  it("with a listen address of another machine names the address and the setting to change", async () => {
    await using setup = await scenario();
    const id = await (async () => {
      await using agent = await setup.start({ STORAGE_NODE_EXPORT_ADDR: "192.0.2.1" });
      await agent.ready();
      const made = idOf(await provision(agent, {}, { wait: false }));
      const explained = await untilExplained(
        agent,
        made,
        /192\.0\.2\.1 is not an address of this mach/,
      );
      expect(explained.summary).toContain("cure: set STORAGE_NODE_EXPORT_ADDR");
      expect(explained.checks[3]).toMatchObject({ answer: "CHECK_ANSWER_NO" });
      expect(explained.checks[3]?.evidence).toContain("wanted: TCP 192.0.2.1:4440");
      await until("the target has refused it", async () => {
        const { lastError } = await explainVolume(agent, made);
        return lastError.includes("nvmf_subsystem_add_listener");
      });
      await until("the next step names the listener", async () => {
        const { nextStep } = await explainVolume(agent, made);
        return nextStep.includes("listen on TCP 192.0.2.1:4440");
      });
      return made;
    })();
    const agent = await setup.start();
    await until("it is UP where it can listen", async () => {
      return await isUp(agent, id).catch(() => false);
    });
  });

  it("while the database is down says since when, what still works, and to start PostgreSQL", async () => {
    await using setup = await scenario();
    const agent = await setup.start();
    await agent.ready();
    const id = idOf(await provision(agent));
    await setup.proxy.down();
    await refusal(provision(agent));
    const explained = await untilExplained(agent, id, /is UP: the database cannot be reached/);
    expect(explained.summary).toMatch(
      /\(since 20.*\); meanwhile exports stay .*; cure: start PostgreSQL/,
    );
    expect(answers(explained)).toBe("Nyyyyy");
    await setup.proxy.up();
    await untilExplained(agent, id, new RegExp(`is UP: ${HOST} may connect`));
  });

  it("is refused with reason and cure while the rows have not been read", async () => {
    await using setup = await scenario();
    await setup.proxy.down();
    const agent = await setup.start();
    const id = "11111111-2222-4333-8444-555555555555";
    await until("the database was tried", async () => {
      const refused = await refusal(explainVolume(agent, id));
      expect(refused).toMatchObject({ code: 14, reason: "DATABASE_DOWN" });
      return /cannot be reached: .* \(since .*\); start PostgreSQL/.test(refused.message);
    });
    const cli = await storageNode(["explain", "volume", id, "--address", agent.address]);
    expect(cli).toMatchObject({ code: 1, out: "" });
    expect(cli.err).toMatch(/cannot be reached: .*; start PostgreSQL/);
  });

  it("on a node on hold names storage-node rebuild, also for a volume missing from the database", async () => {
    await using stack = new AsyncDisposableStack();
    const target = stack.use(await startTarget());
    const folder = stack.use(await temporaryFolder());
    const stateDir = join(folder.path, "state");
    const env = { STORAGE_NODE_STATE_DIR: stateDir };
    const database = stack.use(await testDatabase());
    const [kept, lost] = await (async () => {
      await using agent = await startAgent({ url: database.url, target }, env);
      await agent.ready();
      return [idOf(await provision(agent)), idOf(await provision(agent))];
    })();
    // Same state as after restoring an old backup: a row is missing, revision and epoch are older.
    await database.query(`delete from lvol where id = '${lost}'`);
    await database.query(`update node set revision = revision - 3, lease_epoch = 1`);
    const agent = stack.use(await startAgent({ url: database.url, target }, env));
    await until("the rows are read", () => agent.node.agent.rows.lvol(kept) !== undefined);
    const explained = await untilExplained(agent, kept, /the node is on hold and changes nothing/);
    expect(explained.summary).toMatch(
      /behind what this node knew.*cure: .*run "storage-node rebuild"/,
    );
    const refused = await refusal(explainVolume(agent, lost));
    expect(refused).toMatchObject({ code: 5, reason: "NOT_FOUND" });
    expect(refused.message).toContain('run "storage-node rebuild"');
    const settings = {
      ...env,
      DATABASE_URL: database.url,
      STORAGE_NODE_ID: "node-1",
      STORAGE_NODE_FLEET: "test",
      STORAGE_NODE_SPDK_SOCKET: target.socket,
    };
    const rebuilt = await storageNode(["rebuild", "--keep-listed", "--apply"], { env: settings });
    expect(rebuilt).toMatchObject({ code: 0, err: "" });
    await untilExplained(agent, kept, new RegExp(`is UP: ${HOST} may connect`));
    const back = await untilExplained(
      agent,
      lost,
      /which does not say who may connect; cure|AllowHost/,
    );
    expect(back.summary).toContain("it was rebuilt from its disk");
  });

  it("whose lvol is gone says that it is never recreated, and names Delete as the cure", async () => {
    await using setup = await scenario();
    const agent = await setup.start();
    await agent.ready();
    const made = await provision(agent);
    const [id, { lvolUuid = "", nqn = "", diskId = "" } = {}] = [idOf(made), made.status];
    const lvsUuid = agent.node.agent.rows.disk(diskId)?.lvsUuid ?? "";
    await setup.target.spdk.nvmfSubsystemRemoveNs({ nqn, nsid: 1 });
    await setup.target.spdk.bdevLvolDelete({ lvsUuid, name: lvolUuid });
    const explained = await untilExplained(
      agent,
      id,
      /is DATA_MISSING: its lvol .* was there and is gone/,
    );
    expect(explained.summary).toContain(`its lvol ${lvolUuid} on disk SIM`);
    expect(explained.summary).toContain(`call Delete {"lvolId": "${id}"}`);
    await until("nothing is done about it", async () => {
      const { nextStep } = await explainVolume(agent, id);
      return nextStep === "nothing: an lvol that existed once is never created again";
    });
    expect(answers(explained).slice(0, 2)).toBe("NN");
    expect(await remove(agent, id)).toEqual({ done: true });
    const gone = await explainVolume(agent, id);
    expect(gone.summary).toMatch(/is DELETED: it was deleted at 20/);
  });
});

describe.skipIf(REAL_SOCKET !== undefined)("Explain of a disk", () => {
  it("names the evidence against claiming it, the call that admits it, and what the machine lacks", async () => {
    await using stack = new AsyncDisposableStack();
    const drives = [drive(1), drive(2, { use: { kind: "mount", at: "/data" } })];
    const spec = { drives, vfioPci: false };
    const kernel = stack.use(await kernelScenario(spec));
    const disks = spec.drives.map(simulated);
    const setup = stack.use(await scenario({ drives: { root: kernel.root, disks } }));
    const env = { STORAGE_NODE_DISK_POLICY: "manual", STORAGE_NODE_ROOT: kernel.root };
    const agent = await setup.start(env, kernel.kernel);
    const { client } = agent;
    const rows = () => [...agent.node.agent.rows.disks()];
    await until("both are found", () => rows().length === 2);
    const [blank = "", mounted = ""] = rows()
      .toSorted((a, b) => (a.serial < b.serial ? -1 : 1))
      .map(({ id }) => id);
    const says = async (id: string, words: RegExp) => {
      await until(`${words}`, async () => words.test((await explainDisk(agent, id)).summary));
      return await explainDisk(agent, id);
    };
    const inUse = await says(mounted, /^disk DRIVE2 is IN_USE: MOUNTED DRIVE2/);
    expect(inUse.summary).toContain("cure: unmount it");
    expect(answers(inUse).slice(1, 4)).toBe("yNN");
    const free = await says(blank, /^disk DRIVE1 is DISCOVERED: nobody has admitted it yet/);
    expect(free.summary).toContain(`call AdmitDisk {"diskId": "${blank}", "serial": "DRIVE1"}`);
    await call(client, client.admitDisk.bind(client), {
      diskId: blank,
      serial: "DRIVE1",
      evidenceFingerprint: "",
      address: "",
      discardZeroes: false,
      waitTimeout: undefined,
    });
    const words =
      /this machine cannot give drives to the target \(vfio-pci\): .*cure: modprobe vfio-pci/;
    await says(blank, words);
    await loadVfioPci(kernel.root);
    const up = await says(blank, /^disk DRIVE1 is UP: /);
    // Its health may not have been read yet.
    expect(answers(up)).toMatch(/^yyyyy[y?]y$/);
  });
});

describe("Explain", () => {
  it("refuses a missing target, malformed ids, and unknown objects", async () => {
    await using setup = await scenario();
    const agent = await setup.start();
    await agent.ready();
    const { client } = agent;
    const asked = async (target: ExplainRequest["target"]) =>
      await refusal(call(client, client.explain.bind(client), { target }));
    const id = randomUUID();
    expect(await asked(undefined)).toMatchObject({ code: 3, fields: ["target"] });
    for (const [$case, field] of [
      ["lvolId", "lvol_id"],
      ["diskId", "disk_id"],
      ["snapshotId", "snapshot_id"],
    ] as const) {
      const refused = await asked({ $case, value: "NO-ID" });
      expect(refused).toMatchObject({ code: 3, reason: "INVALID_FIELD", fields: [field] });
      const reason = "NOT_FOUND";
      expect(await asked({ $case, value: id })).toMatchObject({ reason });
    }
  });
});
