// Addresses of NVMe-oF, as SPDK names their families.
import { isIPv6 } from "node:net";

/** A real target answers an attach over TCP without its family with "Input/output error". */
export function addressFamily(traddr: string): "IPv4" | "IPv6" {
  return isIPv6(traddr) ? "IPv6" : "IPv4";
}
