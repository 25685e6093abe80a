// The causes that are in the export of a volume alone, as lvol-causes.ts.
import { namespaceState, type VolumeView } from "../model/lvol-state.ts";
import type { Cause } from "./explanation.ts";

type Facts = { readonly view: VolumeView };

/** A subsystem or namespace with the name of the volume's export that this agent did not create. */
export function foreignSubsystemCause({ view: { row, observed } }: Facts): Cause | undefined {
  const { subsystem } = observed;
  if (subsystem?.kind !== "present" || row.deleteRequestedTime !== undefined) return undefined;
  const waits = "the agent does not change what it did not create";
  const { nqn } = row;
  if (subsystem.serialNumber !== row.serialNumber) {
    return {
      cause:
        `the subsystem ${nqn} has the serial number ${subsystem.serialNumber}: this agent ` +
        `did not create it, and does not change it`,
      cure:
        `find out whose it is; once nobody needs it, send the target nvmf_delete_subsystem ` +
        `{"nqn": "${nqn}"}`,
      waits,
    };
  }
  const uuid = observed.lvol?.kind === "present" ? observed.lvol.uuid : row.lvolUuid;
  if (uuid === undefined || namespaceState(row, subsystem, uuid) !== "conflict") return undefined;
  const [other] = subsystem.namespaces;
  return {
    cause:
      `namespace 1 of ${nqn} shows ${other?.bdevName} as ${other?.uuid}, not lvol ${uuid}: ` +
      `the agent does not change it`,
    cure:
      `find out whose it is; once nobody needs it, send the target nvmf_subsystem_remove_ns ` +
      `{"nqn": "${nqn}", "nsid": 1}`,
    waits,
  };
}

export function hostCause({ view: { row } }: Facts): Cause | undefined {
  if (row.deleteRequestedTime !== undefined) return undefined;
  const call =
    `call AllowHost {"lvolId": "${row.id}", "hostNqn": "NQN"} with the NQN of each host (on ` +
    `it: cat /etc/nvme/hostnqn)`;
  if (row.unconfirmed) {
    return {
      cause: row.adopted
        ? "it was adopted from an orphan, which does not say who may connect: it is not exported"
        : "it was rebuilt from its disk, which does not say who may connect: its export is " +
          "not changed",
      cure: call,
      waits: "waits for AllowHost or RevokeHost",
    };
  }
  if (row.unconfirmedHosts.length > 0) {
    return {
      cause:
        `the database is older than what the node remembers, so these hosts may not connect: ` +
        row.unconfirmedHosts.join(", "),
      cure:
        `call ConfirmHosts for the hosts that may, or run "storage-node confirm-hosts"; call ` +
        `RevokeHost for the others`,
      waits: "waits for ConfirmHosts or RevokeHost",
    };
  }
  if (row.allowAnyHost || row.hosts.length > 0) return undefined;
  return { cause: "no host may connect to it", cure: call, waits: "all is as wanted" };
}
