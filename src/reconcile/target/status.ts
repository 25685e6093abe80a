// Whether the agent works with the target, and if not, why: from the session, the connection and the pulse.
import type { SpdkConnection } from "../../spdk/connection.ts";
import type { Pulse } from "../../spdk/pulse.ts";

/** What the session knows of the target that is connected, or was last. */
export type SessionStatus = {
  readonly connected: boolean;
  /** Why the agent does not work with the target; empty when it is identified and owned. */
  readonly reason: string;
  /** That it ends each time it is identified, and when it is tried again; empty if it does not. */
  readonly death: string;
  readonly version: string;
  readonly since: Date;
};

export type TargetStatus = SessionStatus & {
  /** The socket answers, whether or not the target is identified and owned by this node. */
  readonly answers: boolean;
  /** It is connected and has answered nothing for longer than it may. */
  readonly silent: boolean;
};

export function shownStatus(
  status: SessionStatus,
  on: {
    readonly connection: Pick<SpdkConnection, "fault">;
    readonly pulse: Pick<Pulse, "silentSince">;
  },
): TargetStatus {
  const { fault } = on.connection;
  const since = on.pulse.silentSince;
  if (since !== undefined) {
    const reason = `takes requests and has answered none since ${since.toISOString()}`;
    return { ...status, connected: false, answers: false, silent: true, reason, since };
  }
  const answers = fault === undefined;
  const reason = [fault ?? status.reason, status.death].filter((text) => text !== "").join("; ");
  return { ...status, answers, silent: false, reason };
}
