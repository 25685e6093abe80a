// NVMe qualified names as SPDK checks them (docs/spdk-contract.md#nqn-rules): what passes here is not
// refused by the target for its form. Pure.

const MIN_BYTES = 11;
const MAX_BYTES = 223;
const DISCOVERY = "nqn.2014-08.org.nvmexpress.discovery";
const UUID_PREFIX = "nqn.2014-08.org.nvmexpress:uuid:";
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
/** Neither the month nor what follows the colon is checked. */
const DATED = /^nqn\.[0-9]{4}-[0-9]{2}\.([^:]*):[^]/;
const LABEL = /^[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?$/;

/** Whether SPDK takes it for the name of a host or of a subsystem. */
export function isNqn(name: string): boolean {
  const bytes = Buffer.byteLength(name);
  if (bytes < MIN_BYTES || bytes > MAX_BYTES || !name.isWellFormed()) return false;
  if (name === DISCOVERY) return true;
  if (name.startsWith(UUID_PREFIX)) return UUID.test(name.slice(UUID_PREFIX.length));
  const domain = DATED.exec(name)?.[1];
  return domain !== undefined && domain.split(".").every((label) => LABEL.test(label));
}
