// Addresses of NVMe-oF, as SPDK names their families.
import { isIPv6 } from "node:net";

/** A real target answers an attach over TCP without its family with "Input/output error". */
export function addressFamily(traddr: string): "IPv4" | "IPv6" {
  return isIPv6(traddr) ? "IPv6" : "IPv4";
}

/** Whether a target on the machine with these addresses could listen there. */
export function isOwnAddress(traddr: string, own: readonly string[]): boolean {
  const address = canonical(traddr);
  const always = address.startsWith("127.") || ["0.0.0.0", "::", "::1"].includes(address);
  return always || own.some((one) => canonical(one) === address);
}

/** Only this machine reaches such an address. */
export function isLoopback(traddr: string): boolean {
  return traddr.startsWith("127.") || canonical(traddr) === "::1";
}

/** One spelling for each IPv6 address; its zone names an interface, not the address. */
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
