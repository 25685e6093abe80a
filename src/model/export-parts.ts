// The parts of an export that fail and are tried again on their own, by the keys under which their failures
// are kept (failure.ts).
import { addressText } from "./address.ts";
import type { ListenAddress } from "./lvol.ts";

const LOOP = "export";

/** Of the step that sets the limits of a volume. */
export const QOS_KEY = `${LOOP}/set-qos qos`;

/** Of the step that grows an lvol; it is no part of the export. */
export const RESIZE_KEY = "resize/resize-lvol";
export const SET_PARENT_KEY = "provision/set-parent";

export function allowHostKey(host: string): string {
  return `${LOOP}/allow-host ${host}`;
}

export function listenKey(address: ListenAddress): string {
  return `${LOOP}/add-listener ${addressText(address)}`;
}
