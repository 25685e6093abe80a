// State that survives a kill of the simulated target, exclusive use of its socket, client limit.
import { connect, type Socket } from "node:net";
import { once } from "node:events";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { spdkClient, type SpdkClient } from "../../../src/spdk/client.ts";
import { SpdkConnection } from "../../../src/spdk/connection.ts";
import { simulator, type Simulator } from "./simulator.ts";

const MIB = 1024n * 1024n;
const MAIN = fileURLToPath(new URL("../../../src/main.ts", import.meta.url));

async function client(stack: AsyncDisposableStack, { socketPath }: Simulator): Promise<SpdkClient> {
  const connection = stack.use(new SpdkConnection({ path: socketPath, mayMutate: () => true }));
  await new Promise<void>((resolve) => void connection.onConnected(resolve));
  return spdkClient(connection);
}

async function attach(spdk: SpdkClient, { disks }: Simulator): Promise<void> {
  const [disk] = disks;
  await spdk.bdevNvmeAttachController({
    name: "nvme0",
    trtype: "TCP",
    traddr: "127.0.0.1",
    adrfam: "IPv4",
    trsvcid: disk?.["trsvcid"],
    subnqn: disk?.["subnqn"],
  });
}

describe("a target that is killed", () => {
  it("has its lvstores and lvols again after an attach, and no NVMe-oF subsystem or transport", async () => {
    await using stack = new AsyncDisposableStack();
    const sim = stack.use(await simulator());
    const before = await client(stack, sim);
    await attach(before, sim);
    const lvsUuid = await before.bdevLvolCreateLvstore({
      bdevName: "nvme0n1",
      lvsName: "lvs0",
      clusterBytes: MIB,
      clearMethod: "write_zeroes",
    });
    const make = (lvolName: string, thin: boolean) =>
      before.bdevLvolCreate({
        lvsUuid,
        lvolName,
        sizeBytes: 8n * MIB,
        thin,
        clearMethod: "write_zeroes",
      });
    const kept = await make("kept", false);
    const gone = await make("gone", true);
    const snapshot = await before.bdevLvolSnapshot({
      lvsUuid,
      name: kept,
      snapshotName: "snap",
    });
    await before.bdevLvolDelete({ lvsUuid, name: gone });
    await before.nvmfCreateTransport({ trtype: "TCP", maskDiscards: false });
    await before.nvmfCreateSubsystem({
      nqn: "nqn.2026-11.io.test:a",
      serialNumber: "S",
      modelNumber: "M",
      maxNamespaces: 1,
    });
    const store = await before.getLvstore({ uuid: lvsUuid });
    await sim.restart();
    const after = await client(stack, sim);
    expect(await after.bdevLvolGetLvols()).toEqual([]);
    expect(await after.nvmfGetTransports()).toEqual([]);
    expect((await after.nvmfGetSubsystems()).map(({ subtype }) => subtype)).toEqual(["Discovery"]);
    await attach(after, sim);
    expect(await after.getLvstore({ uuid: lvsUuid })).toEqual(store);
    const uuids = (await after.bdevLvolGetLvols()).map(({ uuid }) => uuid);
    expect(uuids.toSorted()).toEqual([kept, snapshot].toSorted());
    const bdev = await after.getBdev(kept);
    expect(bdev).toMatchObject({ sizeBytes: 8n * MIB, lvol: { thin: true, clone: true } });
  });
});

describe("a socket", () => {
  it("is served by one target at a time, and reused after that target was killed", async () => {
    await using sim = await simulator();
    const disks = join(sim.folder, "disks.json");
    const second = spawnSync(
      process.execPath,
      [MAIN, "sim", "--socket", sim.socketPath, "--disks", disks],
      { encoding: "utf8" },
    );
    expect(second.status).toBe(1);
    expect(second.stderr).toContain("serves");
    expect(existsSync(`${sim.socketPath}.lock`)).toBe(true);
    await sim.restart();
  });

  it("serves 64 clients; the 65th waits until one of them disconnects", async () => {
    await using sim = await simulator();
    const open = async (): Promise<Socket> => {
      const socket = connect(sim.socketPath);
      await once(socket, "connect");
      return socket;
    };
    const ask = async (socket: Socket): Promise<string> => {
      socket.write('{"jsonrpc":"2.0","id":1,"method":"framework_wait_init"}');
      const [data] = await once(socket, "data");
      return String(data);
    };
    const sockets = await Promise.all(Array.from({ length: 64 }, open));
    await Promise.all(sockets.map(ask));
    const late = await open();
    const answer = ask(late);
    expect(await Promise.race([answer, ask(sockets[0] ?? late)])).toContain("true");
    expect(late.bytesRead).toBe(0);
    sockets[1]?.destroy();
    expect(await answer).toContain("true");
    for (const socket of [...sockets, late]) socket.destroy();
  });
});
