// What the agent does for volumes, done by hand by somebody who knows in advance that all of it will
// succeed: the same calls with the same parameters, as many at a time as the target takes, and the
// same rows in as few commits as can be. What the agent's times are compared with.
import { randomUUID } from "node:crypto";
import {
  controllerName,
  EXPORT_MODEL,
  exportNguid,
  exportSerial,
  volumeNqn,
} from "../../src/model/identity.ts";
import { newLvolRow, type LvolRow } from "../../src/model/lvol.ts";
import { records } from "../../src/store/columns.ts";
import { creationRequest } from "../support/model.ts";
import { HOST } from "../support/volumes.ts";
import { LISTEN, NQN_PREFIX } from "./agent-under-test.ts";
import { VOLUME_BYTES, type BenchNode, type StoreOnNode, type VolumeOnNode } from "./bench-node.ts";
import { RawConnection } from "./raw-connection.ts";

/** Unanswered requests per store: SPDK refuses from about 512 on. */
const STORE_WINDOW = 256;
const NODE = "by-hand";

export type HandMade = StoreOnNode & { readonly id: string; lvolUuid: string };

export class ByHand implements AsyncDisposable {
  readonly #node: BenchNode;
  readonly #raw: RawConnection;
  readonly #stores: readonly StoreOnNode[];
  readonly #rowsDisk: string;
  /** Uuid of the snapshot of a volume, by the volume's id. */
  readonly #snapshots = new Map<string, string>();

  private constructor(
    node: BenchNode,
    rest: {
      readonly raw: RawConnection;
      readonly stores: readonly StoreOnNode[];
      readonly rowsDisk: string;
    },
  ) {
    this.#node = node;
    this.#raw = rest.raw;
    this.#stores = rest.stores;
    this.#rowsDisk = rest.rowsDisk;
  }

  static async open(node: BenchNode): Promise<ByHand> {
    const raw = await RawConnection.open(node.target.socket);
    const stores = await node.stores();
    return new ByHand(node, { raw, stores, rowsDisk: await makeNode(node) });
  }

  /** On the stores in turn, as the agent places them. */
  names(count: number): readonly HandMade[] {
    return Array.from({ length: count }, (_, index) => {
      const store = this.#stores[index % this.#stores.length];
      if (store === undefined) throw new Error("the node has no store");
      return { ...store, id: randomUUID(), lvolUuid: "" };
    });
  }

  /** Each stage all at once: what needs nothing, then the namespaces, then the listeners. */
  async makeOnTarget(volumes: readonly HandMade[]): Promise<void> {
    await Promise.all([
      this.#createLvols(volumes),
      ...volumes.map((one) => prepare(this.#raw, one)),
    ]);
    await Promise.all(volumes.map((one) => addNamespace(this.#raw, one)));
    await Promise.all(volumes.map((one) => listen(this.#raw, one)));
  }

  /** One call after another. */
  async makeInSequence(volumes: readonly HandMade[]): Promise<void> {
    for (const volume of volumes) {
      volume.lvolUuid = await createLvol(this.#raw, volume);
      for (const [method, params] of prepareCalls(volume)) await this.#raw.call(method, params);
      await addNamespace(this.#raw, volume);
      await listen(this.#raw, volume);
    }
  }

  /** Each lvol is read, so that none is cut off, and grown; then lvol and namespace are read back. */
  async grow(volumes: readonly HandMade[], sizeBytes: bigint): Promise<void> {
    const mebibytes = Number(sizeBytes / 1024n ** 2n);
    await this.#perStore(volumes, async ({ id, lvolUuid: name }) => {
      await this.#raw.call("bdev_get_bdevs", { name });
      await this.#raw.call("bdev_lvol_resize", { name, size_in_mib: mebibytes });
      await Promise.all([
        this.#raw.call("bdev_get_bdevs", { name }),
        this.#raw.call("nvmf_get_subsystems", { nqn: nqnOf(id) }),
      ]);
    });
  }

  /** All at once; then snapshot and volume are read back. */
  async snapshot(volumes: readonly HandMade[]): Promise<void> {
    await this.#perStore(volumes, async (one) => {
      const named = { lvol_name: one.lvolUuid, snapshot_name: `s-${one.id}` };
      const uuid = String(await this.#raw.call("bdev_lvol_snapshot", named));
      this.#snapshots.set(one.id, uuid);
      await Promise.all(
        [uuid, one.lvolUuid].map((name) => this.#raw.call("bdev_get_bdevs", { name })),
      );
    });
  }

  /** Of volumes whose snapshots were taken: each is made as a volume is, and then gets its parent. */
  async clone(clones: readonly (HandMade & { readonly parent: string })[]): Promise<void> {
    await Promise.all([
      this.#perStore(clones, async (one) => {
        one.lvolUuid = await createLvol(this.#raw, one);
        const parent = this.#snapshots.get(one.parent) ?? "";
        const named = { lvol_name: one.lvolUuid, parent_name: parent };
        await this.#raw.call("bdev_lvol_set_parent", named);
        await this.#raw.call("bdev_get_bdevs", { name: one.lvolUuid });
      }),
      ...clones.map((one) => prepare(this.#raw, one)),
    ]);
    await Promise.all(clones.map((one) => addNamespace(this.#raw, one)));
    await Promise.all(clones.map((one) => listen(this.#raw, one)));
  }

  /** Each has one clone, the volume, by then. */
  async removeSnapshots(volumes: readonly HandMade[]): Promise<void> {
    const taken = volumes.filter(({ id }) => this.#snapshots.has(id));
    await this.#perStore(taken, ({ id }) =>
      this.#raw.call("bdev_lvol_delete", { name: this.#snapshots.get(id) ?? "" }),
    );
    this.#snapshots.clear();
  }

  async removeFromTarget(volumes: readonly HandMade[]): Promise<void> {
    await Promise.all(
      volumes.map(({ id }) => this.#raw.call("nvmf_delete_subsystem", { nqn: nqnOf(id) })),
    );
    await this.#perStore(volumes, ({ lvolUuid }) =>
      this.#raw.call("bdev_lvol_delete", { name: lvolUuid }),
    );
  }

  /** In one commit, as intents are written. */
  async insertRows(volumes: readonly HandMade[]): Promise<void> {
    const rows = volumes.map((one) => lvolRow(one, this.#rowsDisk));
    await this.#commit(
      `with given as (select * from jsonb_populate_recordset(null::lvol, $1::jsonb)),
         taken as (insert into object_id (id, node, kind)
           select given.id, node.number, 'l' from given join node on node.node_id = given.node_id
           on conflict do nothing)
       insert into lvol select * from given`,
      [records(rows)],
    );
  }

  /** In one commit, as a status is written. */
  async updateRows(volumes: readonly HandMade[]): Promise<void> {
    const rows = volumes.map(({ id, lvolUuid, lvsUuid }) => ({ id, lvolUuid, lvsUuid }));
    await this.#commit(
      `update lvol set observed_generation = 1, lvol_uuid = r.lvol_uuid, lvs_uuid = r.lvs_uuid,
         observed_size_bytes = lvol.size_bytes, exported = true, revision = lvol.revision + 1,
         update_time = now()
       from jsonb_populate_recordset(null::lvol, $1::jsonb) r where lvol.id = r.id`,
      [records(rows)],
    );
  }

  async deleteRows(): Promise<void> {
    await this.#node.database.query(`delete from lvol where node_id = '${NODE}'`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#raw[Symbol.asyncDispose]();
  }

  async #commit(statement: string, values: readonly unknown[]): Promise<void> {
    const { database } = this.#node;
    await database.query("begin");
    await database.query(statement, [...values]);
    await database.query("commit");
  }

  async #createLvols(volumes: readonly HandMade[]): Promise<void> {
    await this.#perStore(volumes, async (one) => {
      one.lvolUuid = await createLvol(this.#raw, one);
    });
  }

  async #perStore<One extends HandMade>(
    volumes: readonly One[],
    act: (volume: One) => Promise<unknown>,
  ): Promise<void> {
    const byStore = Map.groupBy(volumes, ({ lvsUuid }) => lvsUuid);
    await Promise.all(
      [...byStore.values()].flatMap((waiting) =>
        Array.from({ length: Math.min(STORE_WINDOW, waiting.length) }, async () => {
          for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) await act(next);
        }),
      ),
    );
  }
}

/** Brings everything back on a target that was restarted: its disks, then all exports in three stages. */
export async function restoreByHand(
  raw: RawConnection,
  node: BenchNode,
  volumes: readonly VolumeOnNode[],
): Promise<void> {
  await Promise.all([
    raw.call("nvmf_create_transport", { trtype: LISTEN.trtype }),
    ...node.fabric.map(({ trtype, traddr, trsvcid, subnqn }) =>
      raw.call("bdev_nvme_attach_controller", {
        name: controllerName({ traddr, trsvcid, subnqn }),
        trtype,
        traddr,
        adrfam: LISTEN.adrfam,
        trsvcid,
        subnqn,
        multipath: "disable",
      }),
    ),
  ]);
  await Promise.all(volumes.map((one) => prepare(raw, one)));
  await Promise.all(volumes.map((one) => addNamespace(raw, one)));
  await Promise.all(volumes.map((one) => listen(raw, one)));
}

type Named = { readonly id: string };

async function createLvol(raw: RawConnection, { id, lvsUuid }: HandMade): Promise<string> {
  const uuid = await raw.call("bdev_lvol_create", {
    uuid: lvsUuid,
    lvol_name: id,
    size_in_mib: Number(VOLUME_BYTES / 1024n ** 2n),
    thin_provision: true,
    clear_method: "write_zeroes",
  });
  return String(uuid);
}

async function prepare(raw: RawConnection, volume: Named): Promise<void> {
  await Promise.all(prepareCalls(volume).map(([method, params]) => raw.call(method, params)));
}

function prepareCalls({ id }: Named): readonly (readonly [method: string, params: object])[] {
  const nqn = nqnOf(id);
  const subsystem = {
    nqn,
    serial_number: exportSerial(id),
    model_number: EXPORT_MODEL,
    max_namespaces: 1,
    allow_any_host: false,
  };
  return [
    ["nvmf_create_subsystem", subsystem],
    ["nvmf_subsystem_add_host", { nqn, host: HOST }],
  ];
}

async function addNamespace(
  raw: RawConnection,
  { id, lvolUuid }: Named & { readonly lvolUuid: string },
): Promise<void> {
  const namespace = { bdev_name: lvolUuid, nsid: 1, uuid: id, nguid: exportNguid(id) };
  await raw.call("nvmf_subsystem_add_ns", { nqn: nqnOf(id), namespace });
}

/** Last: a host that connects before the namespace is attached drops its block device. */
async function listen(raw: RawConnection, { id }: Named): Promise<void> {
  await raw.call("nvmf_subsystem_add_listener", { nqn: nqnOf(id), listen_address: LISTEN });
}

function nqnOf(id: string): string {
  return volumeNqn(NQN_PREFIX, id);
}

/** A node beside the agent's, which its rows belong to. Returns its disk. */
async function makeNode({ database }: BenchNode): Promise<string> {
  const disk = randomUUID();
  await database.query(`delete from lvol where node_id = '${NODE}'`);
  await database.query(
    `insert into node (node_id, fleet, nqn_prefix) values ('${NODE}', 'bench', '${NQN_PREFIX}')
     on conflict do nothing`,
  );
  await database.query(
    `insert into disk (id, node_id, serial, model, nsid, transport, address, size_bytes, block_size,
       revision) values ($1, '${NODE}', 'H', 'H', 1, 'TCP', '-', 0, 0, 0)`,
    [disk],
  );
  return disk;
}

function lvolRow({ id }: Named, diskId: string): LvolRow {
  return newLvolRow({
    id,
    nodeId: NODE,
    diskId,
    request: creationRequest({ sizeBytes: VOLUME_BYTES, hosts: [HOST] }),
    promisedBytes: VOLUME_BYTES,
    labels: {},
    nqn: nqnOf(id),
    actor: undefined,
    traceparent: undefined,
    revision: 1n,
    now: new Date(),
  });
}
