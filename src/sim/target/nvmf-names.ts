// Validation of NQNs, serial numbers and listen addresses (docs/spdk-contract.md#nqn-rules; SPDK's
// lib/nvmf/subsystem.c nvmf_nqn_is_valid).
import { isIP } from "node:net";
import { networkInterfaces } from "node:os";
import { object, optional, required, text } from "./decode.ts";
import { nvmfInvalid } from "./rpc-error.ts";
import { DISCOVERY_NQN, type Address, type Subsystem } from "./nvmf-objects.ts";
import type { Target } from "./target.ts";

const MAX_NQN_BYTES = 223;
const MIN_NQN_BYTES = 11;
const UUID_PREFIX = "nqn.2014-08.org.nvmexpress:uuid:";
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
/**
 * Labels start with a letter, end alphanumeric and have 63 characters at most; the month and the
 * text after ':' are not checked.
 */
const NQN =
  /^nqn\.\d{4}-\d{2}\.[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*:./s;

export function isNqn(nqn: string): boolean {
  const bytes = Buffer.byteLength(nqn);
  if (bytes > MAX_NQN_BYTES || bytes < MIN_NQN_BYTES) return false;
  if (nqn === DISCOVERY_NQN) return true;
  if (nqn.startsWith(UUID_PREFIX)) return UUID.test(nqn.slice(UUID_PREFIX.length));
  return NQN.test(nqn);
}

export function isUuid(text: string): boolean {
  return UUID.test(text);
}

/** Whether `text` is at most `length` printable ASCII characters. */
export function isPrintable(text: string, length: number): boolean {
  return text.length <= length && /^[\x20-\x7e]*$/.test(text);
}

export const listenAddress = object({
  trtype: required(text),
  adrfam: optional(text),
  traddr: required(text),
  trsvcid: optional(text),
});

export type AskedAddress = ReturnType<typeof listenAddress>;

const FAMILIES = ["IPv4", "IPv6", "IB", "FC"] as const;

/** The address as the target lists it. Throws "Invalid parameters" for an invalid one. */
export function addressOf({ trtype, adrfam = "IPv4", traddr, trsvcid }: AskedAddress): Address {
  const family = FAMILIES.find((known) => known.toLowerCase() === adrfam.toLowerCase());
  const type = trtype.toUpperCase();
  if (family === undefined || trsvcid === undefined || !["TCP", "RDMA"].includes(type)) {
    throw nvmfInvalid();
  }
  return { trtype: type, adrfam: family, traddr, trsvcid };
}

/**
 * Whether the target can listen there: the transport exists, the address is local to this machine.
 */
export function canListen({ transports }: Target, address: Address): boolean {
  const port = Number(address.trsvcid);
  if (!Number.isInteger(port) || port < 1 || port > 65_535) return false;
  return transports.includes(address.trtype) && isLocal(address.traddr);
}

export function sameAddress(a: Address, b: Address): boolean {
  return (
    a.trtype === b.trtype &&
    a.adrfam === b.adrfam &&
    a.traddr === b.traddr &&
    a.trsvcid === b.trsvcid
  );
}

function isLocal(address: string): boolean {
  if (isIP(address) === 0) return false;
  if (address.startsWith("127.") || address === "0.0.0.0" || address === "::") return true;
  const own = Object.values(networkInterfaces()).flatMap((entries) => entries ?? []);
  return own.some((entry) => entry.address === address);
}

/** Sort order of nvmf_get_subsystems: bytewise by NQN. */
export function byNqn(a: Subsystem, b: Subsystem): number {
  return Buffer.compare(Buffer.from(a.nqn), Buffer.from(b.nqn));
}
