// The NVMe-oF transport, which belongs to no volume.
import type { SpdkClient } from "../../spdk/client.ts";
import { SpdkError } from "../../spdk/errors.ts";
import type { Transport } from "../../spdk/replies-nvmf.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Missing } from "./target-identity.ts";

export type EnsuredTransport = {
  /** What the write mode did not permit. */
  readonly missing: Missing | undefined;
  /** Made now, so that it refuses discards if that was asked for. */
  readonly made: boolean;
};

/** Creates the transport unless it is there. */
export async function ensureTransport(
  on: {
    readonly spdk: Pick<SpdkClient, "nvmfCreateTransport">;
    readonly trtype: string;
    readonly writeMode: () => WriteMode;
  },
  transports: readonly Transport[],
  maskDiscards: boolean,
): Promise<EnsuredTransport> {
  const { trtype: wanted, spdk, writeMode } = on;
  if (transports.some(({ trtype }) => trtype.toUpperCase() === wanted.toUpperCase()))
    return { missing: undefined, made: false };
  if (writeMode() === "read-only") return { missing: "any change", made: false };
  try {
    await spdk.nvmfCreateTransport({ trtype: wanted, maskDiscards });
  } catch (error) {
    if (!(error instanceof SpdkError)) throw error;
    const answer = `nvmf_create_transport answered ${error.code} (${error.spdkMessage})`;
    throw new Error(`cannot create the ${wanted} transport: ${answer}`, { cause: error });
  }
  return { missing: undefined, made: true };
}
