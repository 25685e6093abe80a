// The NVMe-oF transport, which belongs to no volume.
import type { SpdkClient } from "../../spdk/client.ts";
import { SpdkError } from "../../spdk/errors.ts";
import type { Transport } from "../../spdk/replies-nvmf.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Missing } from "./target-identity.ts";

/** Creates the transport unless it is there; what the write mode did not permit. */
export async function ensureTransport(
  on: {
    readonly spdk: Pick<SpdkClient, "nvmfCreateTransport">;
    readonly trtype: string;
    readonly writeMode: () => WriteMode;
  },
  transports: readonly Transport[],
): Promise<Missing | undefined> {
  const { trtype: wanted, spdk, writeMode } = on;
  if (transports.some(({ trtype }) => trtype.toUpperCase() === wanted.toUpperCase()))
    return undefined;
  if (writeMode() === "read-only") return "any change";
  try {
    await spdk.nvmfCreateTransport(wanted);
  } catch (error) {
    if (!(error instanceof SpdkError)) throw error;
    const answer = `nvmf_create_transport answered ${error.code} (${error.spdkMessage})`;
    throw new Error(`cannot create the ${wanted} transport: ${answer}`, { cause: error });
  }
  return undefined;
}
