// NVMe-oF objects of a running target: subsystems with their listeners, namespaces, allowed hosts and
// connected hosts.
import type { Bdev } from "./target.ts";

export const DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery";

export type Address = {
  readonly trtype: string;
  readonly adrfam: string;
  readonly traddr: string;
  readonly trsvcid: string;
};

export type AnaState = "optimized" | "non_optimized" | "inaccessible";

export type Listener = { readonly address: Address; readonly ana: AnaState[] };

export type Namespace = {
  readonly nsid: number;
  readonly bdev: Bdev;
  readonly uuid: string;
  readonly nguid: string;
  readonly eui64: string | undefined;
  readonly anaGroup: number;
};

export type HostController = {
  readonly cntlid: number;
  readonly hostNqn: string;
  /** The listener that it came through. */
  readonly address: Address;
  /** How the host is told; a host of a test that only fills lists leaves both out. */
  readonly onNamespaceChanged?: () => void;
  readonly onDisconnected?: () => void;
};

export type Subsystem = {
  readonly nqn: string;
  readonly serialNumber: string;
  readonly modelNumber: string;
  readonly maxNamespaces: number;
  readonly anaReporting: boolean;
  readonly minCntlid: number;
  readonly maxCntlid: number;
  readonly passthrough: boolean;
  /** Longest range of a discard, in blocks; `setsDmrsl`: other than by default. */
  readonly dmrsl: number;
  readonly setsDmrsl: boolean;
  readonly wzsl: number;
  allowAnyHost: boolean;
  /** Latest first. */
  hosts: string[];
  listeners: Listener[];
  readonly namespaces: Map<number, Namespace>;
  readonly controllers: HostController[];
  /** Methods of the changes in progress. */
  readonly changing: string[];
  deleting: boolean;
};
