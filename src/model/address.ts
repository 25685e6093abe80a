// NVMe-oF transport addresses: address family, local and loopback checks, and their text form.
import { BlockList, isIPv4, isIPv6 } from "node:net";

/**
 * The `adrfam` parameter for an IP address. It is required: SPDK answers an attach over TCP without
 * `adrfam` with "Input/output error".
 */
export function addressFamily(traddr: string): "IPv4" | "IPv6" {
  return isIPv6(traddr) ? "IPv6" : "IPv4";
}

/**
 * Whether traddr is an address of the machine whose interfaces have the addresses `own`. Loopback
 * and wildcard addresses always are.
 */
export function isOwnAddress(traddr: string, own: readonly string[]): boolean {
  const address = canonical(traddr);
  const alwaysOwn = isLoopback(traddr) || ["0.0.0.0", "::"].includes(address);
  return alwaysOwn || own.some((ownAddress) => canonical(ownAddress) === address);
}

/** Whether traddr is an address, not a name, that only this machine can connect to. */
export function isLoopback(traddr: string): boolean {
  const address = canonical(traddr);
  if (isIPv4(address)) return LOOPBACK.check(address, "ipv4");
  return isIPv6(address) && LOOPBACK.check(address, "ipv6");
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet("127.0.0.0", 8, "ipv4");
LOOPBACK.addAddress("::1", "ipv6");

/** The canonical spelling of an IPv6 address without its zone id; other text is returned as is. */
function canonical(address: string): string {
  if (!isIPv6(address)) return address;
  return new URL(`http://[${address.replace(/%.*/, "")}]`).hostname.slice(1, -1);
}

export function addressText({
  trtype,
  traddr,
  trsvcid,
}: {
  readonly trtype: string;
  readonly traddr: string;
  readonly trsvcid: string;
}): string {
  return `${trtype} ${traddr.includes(":") ? `[${traddr}]` : traddr}:${trsvcid}`;
}
