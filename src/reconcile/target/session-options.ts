// What the session with the target works with.
import type { Logger } from "pino";
import type { ListenAddress } from "../../model/lvol.ts";
import type { TargetProcess } from "../../model/target-process.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { SpdkConnection } from "../../spdk/connection.ts";
import type { Pulse } from "../../spdk/pulse.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Rows } from "../../store/rows.ts";
import type { Instruments } from "../../telemetry/instruments.ts";
import type { ConnectedHosts } from "./connected-hosts.ts";
import type { FullScanOptions } from "./full-scan.ts";
import type { IostatLoop } from "./iostat.ts";
import type { Observed } from "./observed.ts";
import type { Orphans } from "./orphans.ts";
import type { ReturnedLvols } from "./returned-lvols.ts";
import type { StoreSpace } from "./store-space.ts";

export type TargetSessionOptions = {
  readonly connection: SpdkConnection;
  readonly spdk: SpdkClient;
  readonly rows: Rows;
  readonly observed: Observed;
  readonly log: Logger;
  readonly instruments: Instruments;
  readonly nodeId: string;
  readonly fleet: string;
  readonly nqnPrefix: string;
  readonly trtype: string;
  readonly isolation: "strict" | "trusted";
  readonly spdkSocket: string;
  /** Addresses at which hosts are told by discovery what they may connect to. */
  readonly listenAddresses: readonly ListenAddress[];
  /** How long a request may still run in the same incarnation after its connection was lost. */
  readonly graceMs: number;
  /** Whether the target answers at all. */
  readonly pulse: Pick<Pulse, "silentSince" | "mayAsk">;
  readonly connectedHosts: ConnectedHosts;
  readonly space: StoreSpace;
  /** The interval in which the target's events are polled. */
  readonly eventsMs: number;
  readonly writeMode: () => WriteMode;
  readonly orphans: Orphans;
  readonly returned: ReturnedLvols;
  readonly disks: FullScanOptions["disks"];
  readonly scanDisks: () => Promise<void>;
  readonly iostat: Pick<IostatLoop, "bdevsUnregistered">;
  /** Keeps what identifies the process of the target, for the next agent. */
  readonly recordProcess: (targetProcess: TargetProcess) => void;
  /**
   * Called when the target is identified and its full scan is applied: loops may plan. restarted: since
   * this agent last worked with it. otherProcess: of these, the first time that it is identified.
   */
  readonly onReady: (ready: {
    readonly restarted: boolean;
    readonly otherProcess: boolean;
  }) => void;
};
