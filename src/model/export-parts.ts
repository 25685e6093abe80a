// The parts of an export that fail and are tried again on their own, by the keys under which their failures
// are kept (failure.ts).
import { addressText } from "./address.ts";
import type { ListenAddress } from "./lvol.ts";

const LOOP = "export";

export function allowHostKey(host: string): string {
  return `${LOOP}/allow-host ${host}`;
}

export function listenKey(address: ListenAddress): string {
  return `${LOOP}/add-listener ${addressText(address)}`;
}
