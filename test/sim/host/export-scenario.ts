// An export made by hand on a target, for tests of the hosts that use it.
import { z } from "zod";
import { call } from "../raw-rpc.ts";

export const NQN = "nqn.2026-11.io.test:export";
export const HOST = "nqn.2014-08.org.x:host";
export const ADDRESS = { traddr: "127.0.0.1", trsvcid: "4420" };
export const MIB = 1_048_576;

const LISTENER = { trtype: "TCP", adrfam: "IPv4", ...ADDRESS };

export type Export = {
  /** Uuid of the exported lvol. */
  readonly lvol: string;
  readonly rpc: (method: string, params?: object) => Promise<unknown>;
  readonly createLvol: (name: string, thin?: boolean) => Promise<string>;
  readonly attach: () => Promise<unknown>;
  readonly createSubsystem: (facts?: object) => Promise<unknown>;
  readonly addHost: () => Promise<unknown>;
  readonly removeHost: () => Promise<unknown>;
  readonly addNamespace: (lvol?: string) => Promise<unknown>;
  readonly removeNamespace: () => Promise<unknown>;
  readonly addListener: () => Promise<unknown>;
  readonly removeListener: () => Promise<unknown>;
  readonly deleteSubsystem: () => Promise<unknown>;
  /** All of an export after a restart of the target, in the order that hosts survive. */
  readonly exportAgain: () => Promise<void>;
  readonly freeClusters: () => Promise<number>;
};

export type ExportOptions = {
  /** Additional params of the subsystem. */
  readonly subsystem?: object;
  readonly transport?: object;
};

/** Attaches the first disk, makes a store of 1 MiB clusters and an 8 MiB lvol, exports it. */
export async function exported(
  socketPath: string,
  { subsystem = {}, transport = {} }: ExportOptions = {},
): Promise<Export> {
  const rpc = async (method: string, params?: object) => await call(socketPath, method, params);
  const attach = () =>
    rpc("bdev_nvme_attach_controller", {
      name: "nvme0",
      trtype: "TCP",
      adrfam: "IPv4",
      traddr: "127.0.0.1",
      trsvcid: "9000",
      subnqn: "nqn.2026-11.io.test:disk0",
    });
  const createLvol = async (name: string, thin = true) =>
    z.string().parse(
      await rpc("bdev_lvol_create", {
        lvs_name: "lvs0",
        lvol_name: name,
        size_in_mib: 8,
        thin_provision: thin,
        clear_method: "write_zeroes",
      }),
    );
  await attach();
  await rpc("bdev_lvol_create_lvstore", {
    bdev_name: "nvme0n1",
    lvs_name: "lvs0",
    cluster_sz: MIB,
    clear_method: "none",
  });
  const lvol = await createLvol("v");
  const createTransport = () => rpc("nvmf_create_transport", { trtype: "TCP", ...transport });
  const createSubsystem = (facts: object = subsystem) =>
    rpc("nvmf_create_subsystem", { nqn: NQN, ...facts });
  const addHost = () => rpc("nvmf_subsystem_add_host", { nqn: NQN, host: HOST });
  const addNamespace = (bdev = lvol) =>
    rpc("nvmf_subsystem_add_ns", { nqn: NQN, namespace: { bdev_name: bdev, nsid: 1 } });
  const addListener = () =>
    rpc("nvmf_subsystem_add_listener", { nqn: NQN, listen_address: LISTENER });
  const exportAll = async () => {
    await createTransport();
    await createSubsystem();
    await addHost();
    await addNamespace();
    await addListener();
  };
  await exportAll();
  return {
    lvol,
    rpc,
    createLvol,
    attach,
    createSubsystem,
    addHost,
    addNamespace,
    addListener,
    removeHost: () => rpc("nvmf_subsystem_remove_host", { nqn: NQN, host: HOST }),
    removeNamespace: () => rpc("nvmf_subsystem_remove_ns", { nqn: NQN, nsid: 1 }),
    removeListener: () =>
      rpc("nvmf_subsystem_remove_listener", { nqn: NQN, listen_address: LISTENER }),
    deleteSubsystem: () => rpc("nvmf_delete_subsystem", { nqn: NQN }),
    exportAgain: async () => {
      await attach();
      await exportAll();
    },
    freeClusters: async () => {
      const stores = z.array(z.object({ free_clusters: z.number() }));
      const [store] = stores.parse(await rpc("bdev_lvol_get_lvstores"));
      return store?.free_clusters ?? Number.NaN;
    },
  };
}
