// The guest's own kernel as a compute node: it connects to the agent's export over TCP, and keeps its file
// system through kills of target and agent.
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { call, until } from "../support/agent.ts";
import { admit, settled } from "../support/drives.ts";
import { getLvol, HOST, idOf, provision, stateOf } from "../support/volumes.ts";
import { blank, simulatedDisks } from "./drives.ts";
import { guestNode, type GuestNode } from "./guest-node.ts";

const DRIVE = blank("KTHOST", "4", 1024n ** 3n);
const VOLUME_BYTES = 256n * 1024n ** 2n;
const HAS_REAL_TARGET = inject("guest").spdkTarget !== undefined;

/** Shell: the namespace of the kernel's own connection to a subsystem. */
const CONNECTED_DEVICE = `
connected_device() {
  for controller in /sys/class/nvme/nvme*; do
    [ "$(cat $controller/transport)" = tcp ] || continue
    for path in $controller/nvme*n*; do
      echo /dev/$(basename $path | sed 's/c[0-9]*n/n/')
    done
  done
}`;

describe.runIf(HAS_REAL_TARGET)("a host on the kernel's nvme-tcp (needs a real target)", () => {
  const stack = new AsyncDisposableStack();
  let node: GuestNode;

  beforeAll(async () => {
    node = stack.use(
      await guestNode({ drives: [DRIVE], disks: simulatedDisks([DRIVE]), iommu: "on" }),
    );
    await node.machine.sh("modprobe nvme-tcp");
    await node.startAgent();
    await settled(node, { KTHOST: "DISK_STATE_DISCOVERED" });
    await admit(node, DRIVE.serial);
    await settled(node, { KTHOST: "DISK_STATE_UP" });
  });

  afterAll(async () => await stack.disposeAsync());

  it("sees no I/O error and the same data when target and agent are killed", async () => {
    const { machine, client } = node;
    const volume = await provision(node, { sizeBytes: VOLUME_BYTES });
    await until("it is UP", async () => {
      return stateOf(await getLvol(node, idOf(volume))) === "LVOL_STATE_UP";
    });
    const request = {
      target: { $case: "lvolId" as const, value: idOf(volume) },
      hostNqn: HOST,
    };
    const { export: exported } = await call(client, client.getExport.bind(client), request);
    await machine.sh(
      `nvme connect -t tcp -a 127.0.0.1 -s 4420 -n ${exported?.nqn} -q ${HOST} \
         --reconnect-delay=1 --ctrl-loss-tmo=600`,
    );
    const device = await machine.sh(
      `${CONNECTED_DEVICE}
       until [ -b "$(connected_device)" ]; do usleep 50000; done; connected_device`,
    );
    await machine.sh(
      `mkfs.ext4 -q ${device} && mkdir -p /mnt/volume && mount ${device} /mnt/volume`,
    );
    const sequence = `/sys/block/$(basename ${device})/diskseq`;
    const before = await machine.sh(`cat ${sequence}`);
    await machine.sh(`{ (
      set -e
      for i in $(seq 1 200); do
        dd if=/dev/urandom of=/mnt/volume/$i bs=64k count=4 conv=fsync 2>&1
        sha256sum /mnt/volume/$i >>/run/written
      done
    ) >/run/writer.log; echo $? >/run/writer; } >/dev/null 2>&1 </dev/null &`);
    await machine.sh("until [ -s /run/written ]; do usleep 50000; done");
    await machine.sh("kill -9 $(cat /run/target.pid) $(cat /run/agent.pid)");
    await node.startTarget();
    await node.startAgent();
    await until("the writer has ended", async () => {
      return (await machine.run("[ -s /run/writer ]")).code === 0;
    });
    const ended = await machine.sh(
      "cat /run/writer; [ $(cat /run/writer) = 0 ] || tail /run/writer.log",
    );
    expect(ended).toBe("0");
    await machine.sh(
      "sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /run/written >/dev/null",
    );
    expect(await machine.sh(`cat ${sequence}`)).toBe(before);
    expect((await machine.run("dmesg | grep -i 'I/O error'")).stdout).toBe("");
    await machine.sh("umount /mnt/volume && nvme disconnect-all");
  });
});
