// Parses the recorded replies of a real target (v26.09-pre, emulated PCIe drives), and replies
// without the fields that other releases lack.

import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { list, object, record, ReplyFault, text, type Read } from "../../src/spdk/fields.ts";
import {
  bdev,
  controller,
  controllerHealth,
  iostat,
  type Bdev,
} from "../../src/spdk/replies-bdev.ts";
import { version } from "../../src/spdk/replies-target.ts";
import { lvol, lvstore } from "../../src/spdk/replies-lvol.ts";
import { subsystem, subsystemController, transport } from "../../src/spdk/replies-nvmf.ts";

const raw: Read<unknown> = (value) => value;
const recording = parse(
  object((file) =>
    file.get(
      "calls",
      list(
        object((call) => ({
          method: call.get("method", text),
          result: call.optional("result", raw),
        })),
      ),
    ),
  ),
  JSON.parse(await readFile(new URL("recorded-pcie.json", import.meta.url), "utf8")),
);

/** Every recorded result of a method, parsed. */
function recorded<T>(method: string, read: Read<T>): readonly T[] {
  return recording
    .filter((call) => call.method === method && call.result !== undefined)
    .map(({ result }) => read(result, { key: method }));
}

function parse<T>(read: Read<T>, value: unknown): T {
  return read(value, { key: "reply" });
}

describe("recorded replies", () => {
  test("disks and lvols are distinguished and have exact sizes", () => {
    const bdevs = recorded("bdev_get_bdevs", list(bdev)).flat();
    const disk = bdevs.find(({ kind }) => kind === "nvme");
    expect(disk).toMatchObject({
      name: "nvme0n1",
      sizeBytes: 1_073_741_824n,
      claimed: false,
      claimType: undefined,
      supports: { write: true, unmap: true, writeZeroes: true },
      paths: [
        {
          trid: { trtype: "PCIe", traddr: "0000:00:04.0", trsvcid: undefined },
          pciAddress: "0000:00:04.0",
          serialNumber: "RIGBLANK0001",
          modelNumber: "QEMU NVMe Ctrl",
          nsid: 1,
        },
      ],
    });
    expect(bdevs.find(({ kind }) => kind === "lvol")).toMatchObject({
      aliases: ["lvs0/vol0"],
      numBlocks: 131_072n,
      sizeBytes: 67_108_864n,
      lvol: { thin: true, allocatedClusters: 0n, baseSnapshot: undefined, clones: [] },
    });
    expect(bdevs.find(({ claimed }) => claimed)?.claimType).toBe("read_many_write_one");
  });

  test("stores, controllers, counters and health", () => {
    expect(recorded("bdev_lvol_get_lvstores", list(lvstore))[0]).toMatchObject([
      { name: "lvs0", clusterBytes: 4_194_304n, freeClusters: 255n, freeBytes: 1_069_547_520n },
    ]);
    expect(recorded("bdev_nvme_get_controllers", list(controller))[0]).toMatchObject([
      { name: "nvme0", paths: [{ state: "enabled", trid: { traddr: "0000:00:04.0" } }] },
    ]);
    expect(recorded("bdev_get_iostat", iostat)).toMatchObject([
      {
        tickRate: 2_530_000_000n,
        bdevs: [
          {
            name: "nvme0n1",
            read: { bytes: 49_664n, operations: 6n, latencyTicks: 39_321_178n },
            write: { bytes: 20_480n, operations: 5n },
            ioErrors: {},
          },
        ],
      },
    ]);
    expect(recorded("bdev_nvme_get_controller_health_info", controllerHealth)).toMatchObject([
      { serialNumber: "RIGBLANK0001", temperatureCelsius: 50, mediaErrors: 0n },
    ]);
    expect(recorded("spdk_get_version", version)).toMatchObject([
      { major: 26, minor: 9, suffix: "-pre" },
    ]);
  });
});

describe("fields that some releases or objects lack", () => {
  const lvolOf2401 = {
    alias: "lvs0/v1",
    uuid: "u",
    name: "v1",
    is_thin_provisioned: true,
    is_snapshot: false,
    is_clone: false,
    is_esnap_clone: false,
    is_degraded: false,
    lvs: { name: "lvs0", uuid: "s" },
  };

  test("allocatedClusters is undefined on 24.01", () => {
    expect(parse(lvol, lvolOf2401)).toMatchObject({ allocatedClusters: undefined, thin: true });
    expect(parse(lvol, { ...lvolOf2401, num_allocated_clusters: 3 }).allocatedClusters).toBe(3n);
  });

  test("a bdev of an unknown driver parses as kind other", () => {
    const [fields] = recorded("bdev_get_bdevs", list(record(raw))).flat();
    const other: Bdev = parse(bdev, { ...fields, driver_specific: { malloc: {} } });
    expect(other.kind).toBe("other");
  });

  test("snapshots name their clones, clones their snapshot", () => {
    const bdevs = recorded("bdev_get_bdevs", list(record(raw))).flat();
    const fields = bdevs.find(({ product_name }) => product_name === "Logical Volume");
    const driver = parse(
      object((part) => part.get("lvol", record(raw))),
      fields?.["driver_specific"],
    );
    const withParent = { lvol: { ...driver, clone: true, base_snapshot: "s1" } };
    const withClones = { lvol: { ...driver, snapshot: true, clones: ["c1", "c2"] } };
    expect(parse(bdev, { ...fields, driver_specific: withParent })).toMatchObject({
      lvol: { baseSnapshot: "s1" },
    });
    expect(parse(bdev, { ...fields, driver_specific: withClones })).toMatchObject({
      lvol: { clones: ["c1", "c2"] },
    });
  });

  test("a disk that reports 0 K has no temperature, 128-bit counters are exact", () => {
    const [health] = recorded("bdev_nvme_get_controller_health_info", record(raw));
    const parsed = parse(controllerHealth, {
      ...health,
      temperature_celsius: 18446744073709551343n,
      data_units_read: 2n ** 100n,
    });
    expect(parsed.temperatureCelsius).toBeUndefined();
    expect(parsed.dataUnitsRead).toBe(2n ** 100n);
  });

  test("a controller state of a newer release is unknown, not a fault", () => {
    const trid = { trtype: "PCIe", traddr: "0000:00:04.0" };
    const parsed = parse(controller, { name: "c", ctrlrs: [{ state: "new_state", trid }] });
    expect(parsed.paths[0]?.state).toBe("unknown");
  });

  test("subsystems of 24.01 and 26.09 parse to the same value, discovery included", () => {
    const address = { trtype: "TCP", adrfam: "IPv4", traddr: "127.0.0.1", trsvcid: "4420" };
    const nvme = {
      nqn: "nqn.2024-01.io.example:a",
      subtype: "NVMe",
      listen_addresses: [{ ...address, transport: "TCP" }],
      allow_any_host: false,
      hosts: [{ nqn: "nqn.2024-01.io.example:h2" }, { nqn: "nqn.2024-01.io.example:h1" }],
      serial_number: "S",
      model_number: "M",
      max_namespaces: 1,
      min_cntlid: 1,
      max_cntlid: 65519,
      namespaces: [{ nsid: 1, bdev_name: "u", name: "u", nguid: "AB", uuid: "u" }],
    };
    const discovery = {
      nqn: "nqn.2014-08.org.nvmexpress.discovery",
      subtype: "Discovery",
      listen_addresses: [],
      allow_any_host: true,
      hosts: [],
    };
    const old = parse(list(subsystem), [discovery, nvme]);
    const recent = parse(subsystem, { ...nvme, passthrough: false, dmrsl: 2097152, wzsl: 12 });
    expect({ ...old[1], dmrsl: 2_097_152 }).toEqual(recent);
    expect(old[0]).toMatchObject({ subtype: "Discovery", namespaces: [], serialNumber: undefined });
    expect(recent).toMatchObject({
      hosts: ["nqn.2024-01.io.example:h2", "nqn.2024-01.io.example:h1"],
      listenAddresses: [address],
      namespaces: [{ nsid: 1, bdevName: "u", uuid: "u", nguid: "AB" }],
    });
  });

  test("connected hosts and transports", () => {
    const host = { cntlid: 1, hostnqn: "nqn.h", hostid: "i", num_io_qpairs: 2 };
    expect(parse(subsystemController, host).hostNqn).toBe("nqn.h");
    const tcp = {
      trtype: "TCP",
      max_queue_depth: 128,
      max_io_qpairs_per_ctrlr: 127,
      in_capsule_data_size: 4096,
      max_io_size: 131072,
      max_aq_depth: 128,
    };
    expect(parse(transport, tcp)).toMatchObject({ trtype: "TCP", maxIoSize: 131_072 });
  });
});

describe("a reply that breaks the contract throws ReplyFault with the path of the value", () => {
  const good = {
    uuid: "u",
    name: "n",
    base_bdev: "b",
    total_data_clusters: 2,
    free_clusters: 1,
    block_size: 512,
    cluster_size: 4194304,
  };

  test.each([
    ["a missing field", { ...good, uuid: undefined }, "reply.1.uuid is not a string"],
    ["a negative size", { ...good, cluster_size: -1 }, "reply.1.cluster_size is not"],
    ["a broken number", { ...good, free_clusters: 1.5 }, "reply.1.free_clusters is not"],
    ["a rounded number", { ...good, free_clusters: 2 ** 53 }, "reply.1.free_clusters is not"],
    ["no object", "text", "reply.1 is not an object"],
  ])("%s", (_name, value, message) => {
    const read = (): unknown => parse(list(lvstore), [good, value]);
    expect(read).toThrow(ReplyFault);
    expect(read).toThrow(message);
  });
});
