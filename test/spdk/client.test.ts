import { describe, expect, test } from "vitest";
import { UnsupportedRelease } from "../../src/spdk/capabilities.ts";
import { spdkClient, type SpdkClient } from "../../src/spdk/client.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import { SpdkError, SpdkNotSent, SpdkUnknownOutcome } from "../../src/spdk/errors.ts";
import { ScriptedTarget, type Script } from "../support/scripted-target.ts";

/**
 * Script of a target of one release that answers `answers` by method, and true to all other
 * methods.
 */
function release(major: number, minor: number, answers: Readonly<Record<string, unknown>> = {}) {
  const script: Script = ({ method }) => {
    if (method === "spdk_get_version") {
      return {
        result: {
          version: `SPDK v${major}.${minor}`,
          fields: { major, minor, patch: 0, suffix: "", commit: "c" },
        },
      };
    }
    const answer = answers[method];
    if (answer instanceof Failure) return { error: { code: answer.code, message: answer.text } };
    return { result: answer ?? true };
  };
  return script;
}

class Failure {
  readonly code: number;
  readonly text: string;
  constructor(code: number, text: string) {
    this.code = code;
    this.text = text;
  }
}

function counters(name: string): object {
  const kinds = ["read", "write", "unmap"].flatMap((kind) => [
    [`num_${kind}_ops`, 1],
    [`${kind}_latency_ticks`, 1],
  ]);
  const bytes = { bytes_read: 1, bytes_written: 1, bytes_unmapped: 1 };
  return { name, ...bytes, ...Object.fromEntries(kinds) };
}

type Scenario = {
  readonly target: ScriptedTarget;
  readonly connection: SpdkConnection;
  readonly client: SpdkClient;
};

async function withClient(
  script: Script,
  use: (scenario: Scenario) => Promise<void>,
): Promise<void> {
  await using target = await ScriptedTarget.listening(script);
  await using connection = new SpdkConnection({ path: target.path, mayMutate: () => true });
  await expect.poll(() => connection.connected).toBe(true);
  await use({ target, connection, client: spdkClient(connection) });
}

/** Method and params of the received requests, without spdk_get_version. */
function sent({ requests }: ScriptedTarget): readonly unknown[] {
  return requests
    .filter(({ method }) => method !== "spdk_get_version")
    .map(({ method, params }) => [method, params]);
}

describe("the release", () => {
  test("is read once, before the first change", async () => {
    await withClient(release(26, 9), async ({ target, client }) => {
      const nqns = ["nqn.a", "nqn.b", "nqn.c"];
      await Promise.all(nqns.map(async (nqn) => await client.nvmfDeleteSubsystem(nqn)));
      expect(target.requests.map(({ method }) => method)).toEqual([
        "spdk_get_version",
        "nvmf_delete_subsystem",
        "nvmf_delete_subsystem",
        "nvmf_delete_subsystem",
      ]);
    });
  });

  test.each([
    [24, 1, "name", false, "release"],
    [24, 5, "name", false, "nothing"],
    [24, 9, "name", true, "nothing"],
    [25, 5, "name", true, "nothing"],
    [25, 9, "name", true, "nothing"],
    [26, 1, "names", true, "transport"],
    [26, 5, "names", true, "subsystem"],
    [27, 1, "names", true, "subsystem"],
  ] as const)("%i.%i filters by %s", async (major, minor, filter, pipelined, hostDiscards) => {
    await withClient(release(major, minor), async ({ client }) => {
      expect(await client.capabilities()).toMatchObject({
        release: [major, minor],
        iostatFilter: filter,
        pipelinePerSubsystem: pipelined,
        hostDiscards,
      });
    });
  });

  test("below 24.01 no change is sent", async () => {
    await withClient(release(23, 9), async ({ target, client }) => {
      await expect(client.capabilities()).rejects.toThrow(UnsupportedRelease);
      const change = client.nvmfCreateTransport({ trtype: "TCP", maskDiscards: false });
      await expect(change).rejects.toMatchObject({ name: "SpdkNotSent", reason: "release" });
      expect(sent(target)).toEqual([]);
    });
  });

  test("is read again after a reconnect, because the release may differ", async () => {
    await withClient(release(24, 1), async ({ target, client }) => {
      expect(await client.capabilities()).toMatchObject({ release: [24, 1] });
      await target.stop();
      target.script = release(26, 9);
      await target.listen();
      await expect
        .poll(async () => (await client.capabilities().catch(() => undefined))?.release)
        .toEqual([26, 9]);
    });
  });
});

describe("requests", () => {
  test("of every change have the method and params of SPDK", async () => {
    const uuids = { bdev_lvol_create: "u1", bdev_lvol_snapshot: "u2", bdev_lvol_clone: "u3" };
    const answers = { ...uuids, bdev_lvol_create_lvstore: "l1", nvmf_subsystem_add_ns: 1 };
    const attached = { ...answers, bdev_nvme_attach_controller: ["d1n1"] };
    await withClient(release(26, 9, attached), async ({ target, client }) => {
      const pcie = { name: "d1", trtype: "PCIe", traddr: "0000:01:00.0" };
      expect(await client.bdevNvmeAttachController(pcie)).toEqual(["d1n1"]);
      const store = { bdevName: "d1n1", lvsName: "sn-1", clusterBytes: 4_194_304n };
      expect(await client.bdevLvolCreateLvstore({ ...store, clearMethod: "write_zeroes" })).toBe(
        "l1",
      );
      const lvol = { lvsUuid: "l1", lvolName: "v1", sizeBytes: 10_737_418_240n, thin: true };
      expect(await client.bdevLvolCreate({ ...lvol, clearMethod: "write_zeroes" })).toBe("u1");
      const u1 = { lvsUuid: "l1", name: "u1" };
      await client.bdevLvolResize({ ...u1, sizeBytes: 21_474_836_480n });
      expect(await client.bdevLvolSnapshot({ ...u1, snapshotName: "s1" })).toBe("u2");
      expect(await client.bdevLvolClone({ ...u1, name: "u2", cloneName: "c1" })).toBe("u3");
      await client.bdevLvolSetParent({ ...u1, parentName: "u2" });
      const nqn = "nqn.2026-11.io.storage-node:v1";
      const named = { nqn, serialNumber: "S", modelNumber: "M", maxNamespaces: 1 };
      await client.nvmfCreateSubsystem(named);
      const address = { trtype: "TCP", adrfam: "IPv4", traddr: "127.0.0.1", trsvcid: "4420" };
      await client.nvmfSubsystemAddListener({ nqn, address });
      await client.nvmfSubsystemAddHost({ nqn, host: "nqn.h" });
      const namespace = { nqn, bdevName: "u1", nsid: 1, uuid: "v1", nguid: "AB" };
      expect(await client.nvmfSubsystemAddNs(namespace)).toBe(1);
      await client.bdevSetQosLimit({ name: "u1", rwIosPerSec: 0n, rMbytesPerSec: 5n });
      const on_l1 = { lvs_name: "sn-1", cluster_sz: 4194304, clear_method: "write_zeroes" };
      expect(sent(target)).toEqual([
        ["bdev_nvme_attach_controller", { ...pcie, multipath: "disable" }],
        ["bdev_lvol_create_lvstore", { bdev_name: "d1n1", ...on_l1 }],
        [
          "bdev_lvol_create",
          {
            uuid: "l1",
            lvol_name: "v1",
            size_in_mib: 10_240,
            thin_provision: true,
            clear_method: "write_zeroes",
          },
        ],
        ["bdev_lvol_resize", { name: "u1", size_in_mib: 20_480 }],
        ["bdev_lvol_snapshot", { lvol_name: "u1", snapshot_name: "s1" }],
        ["bdev_lvol_clone", { snapshot_name: "u2", clone_name: "c1" }],
        ["bdev_lvol_set_parent", { lvol_name: "u1", parent_name: "u2" }],
        [
          "nvmf_create_subsystem",
          { nqn, serial_number: "S", model_number: "M", max_namespaces: 1 },
        ],
        ["nvmf_subsystem_add_listener", { nqn, listen_address: address }],
        ["nvmf_subsystem_add_host", { nqn, host: "nqn.h" }],
        [
          "nvmf_subsystem_add_ns",
          { nqn, namespace: { bdev_name: "u1", nsid: 1, uuid: "v1", nguid: "AB" } },
        ],
        ["bdev_set_qos_limit", { name: "u1", rw_ios_per_sec: 0, r_mbytes_per_sec: 5 }],
      ]);
    });
  });

  test("an attach over TCP sends the address family", async () => {
    const answers = { bdev_nvme_attach_controller: ["d1n1"] };
    await withClient(release(26, 9, answers), async ({ target, client }) => {
      const fabric = { name: "d1", trtype: "TCP", trsvcid: "4420" };
      await client.bdevNvmeAttachController({ ...fabric, traddr: "192.0.2.1" });
      await client.bdevNvmeAttachController({ ...fabric, traddr: "2001:db8::1" });
      expect(target.requests.slice(1).map(({ params }) => params?.["adrfam"])).toEqual([
        "IPv4",
        "IPv6",
      ]);
    });
  });

  test("a size that is not a positive multiple of 1 MiB is refused before it is sent", async () => {
    await withClient(release(26, 9), async ({ target, client }) => {
      const u1 = { lvsUuid: "l1", name: "u1" };
      for (const sizeBytes of [0n, -1_048_576n, 1_048_577n]) {
        await expect(client.bdevLvolResize({ ...u1, sizeBytes })).rejects.toThrow(RangeError);
      }
      const store = { bdevName: "b", lvsName: "s", clearMethod: "none" } as const;
      const huge = client.bdevLvolCreateLvstore({ ...store, clusterBytes: 2n ** 32n });
      await expect(huge).rejects.toThrow(RangeError);
      expect(sent(target)).toEqual([]);
    });
  });

  test("iostat uses the filter that the release has", async () => {
    const answers = {
      bdev_get_iostat: { tick_rate: 1, ticks: 1, bdevs: ["a", "b", "c"].map(counters) },
    };
    await withClient(release(26, 9, answers), async ({ target, client }) => {
      await client.bdevGetIostat(["a", "b"]);
      await client.bdevGetIostat();
      const named = (count: number, length: number) =>
        [...Array(count).keys()].map((n) => String(n).padStart(length, "0"));
      const [short, long] = [named(900, 10), named(700, 36)];
      await client.bdevGetIostat(short);
      await client.bdevGetIostat(long);
      // More names than SPDK takes, and a longer request than it takes.
      const many = await client.bdevGetIostat(named(901, 10));
      expect(many.bdevs).toEqual([]);
      await client.bdevGetIostat(named(900, 36));
      expect(sent(target)).toEqual([
        ["bdev_get_iostat", { names: ["a", "b"] }],
        ["bdev_get_iostat", undefined],
        ["bdev_get_iostat", { names: short }],
        ["bdev_get_iostat", { names: long }],
        ["bdev_get_iostat", undefined],
        ["bdev_get_iostat", undefined],
      ]);
    });
    await withClient(release(25, 5, answers), async ({ target, client }) => {
      await client.bdevGetIostat(["a"]);
      const two = await client.bdevGetIostat(["a", "c"]);
      expect(two.bdevs.map(({ name }) => name)).toEqual(["a", "c"]);
      expect(sent(target)).toEqual([
        ["bdev_get_iostat", { name: "a" }],
        ["bdev_get_iostat", undefined],
      ]);
    });
  });
});

describe("reads by name", () => {
  const gone = new Failure(-19, "No such device");
  const absent: readonly (readonly [string, Readonly<Record<string, Failure>>])[] = [
    [
      "26.09",
      {
        bdev_get_bdevs: gone,
        bdev_lvol_get_lvols: gone,
        bdev_lvol_get_lvstores: gone,
        nvmf_get_subsystems: new Failure(-32602, "Subsystem with NQN 'x' not found"),
        bdev_nvme_get_controllers: new Failure(-22, "Controller x does not exist"),
      },
    ],
    [
      "25.05",
      {
        bdev_get_bdevs: gone,
        bdev_lvol_get_lvols: gone,
        bdev_lvol_get_lvstores: gone,
        nvmf_get_subsystems: gone,
        bdev_nvme_get_controllers: new Failure(22, "Controller x does not exist"),
      },
    ],
  ];

  test.each(absent)(
    "resolve with undefined for the not-found answers of %s",
    async (_name, answers) => {
      await withClient(release(26, 9, answers), async ({ client }) => {
        expect(
          await Promise.all([
            client.getBdev("x"),
            client.getLvols({ name: "x" }),
            client.getLvstore({ uuid: "x" }),
            client.getSubsystem("x"),
            client.getController("x"),
          ]),
        ).toEqual([undefined, undefined, undefined, undefined, undefined]);
      });
    },
  );

  test("throw every other error", async () => {
    const answers = { bdev_get_bdevs: new Failure(-5, "Input/output error") };
    await withClient(release(26, 9, answers), async ({ client }) => {
      await expect(client.getBdev("x")).rejects.toMatchObject({ kind: "io", code: -5 });
    });
  });
});

describe("failures", () => {
  test("throw SpdkError, SpdkUnknownOutcome or SpdkNotSent", async () => {
    const answers = { bdev_lvol_delete: new Failure(-32603, "Device or resource busy") };
    await withClient(release(26, 9, answers), async ({ target, client, connection }) => {
      const v = { lvsUuid: "l", name: "v" };
      const refused = client.bdevLvolDelete(v);
      await expect(refused).rejects.toThrow(SpdkError);
      await expect(refused).rejects.toMatchObject({ kind: "busy", method: "bdev_lvol_delete" });

      target.script = () => undefined;
      const late = await client.bdevLvolDelete(v, { waitMs: 100 }).catch((error: unknown) => error);
      if (!(late instanceof SpdkUnknownOutcome)) throw new Error("not unknown", { cause: late });
      target.answer(target.requests.at(-1)?.id ?? 0, { result: true });
      expect(await late.settled).toEqual({ kind: "ok", result: true });

      await target.stop();
      await expect.poll(() => connection.connected).toBe(false);
      const down = client.bdevLvolDelete(v);
      await expect(down).rejects.toThrow(SpdkNotSent);
      await expect(down).rejects.toMatchObject({ reason: "down", method: "bdev_lvol_delete" });
    });
  });
});
