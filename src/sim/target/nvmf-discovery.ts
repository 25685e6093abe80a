// Listeners of the discovery subsystem: one for each address at which hosts look for subsystems.
// Without it discovery answers at the listeners of the others, with a warning
// (docs/spdk-contract.md#nvme-of).
import type { Context, Later } from "./method.ts";
import { addressOf, canListen, sameAddress, type AskedAddress } from "./nvmf-names.ts";
import { nvmfInvalid } from "./rpc-error.ts";
import { DISCOVERY_NQN } from "./nvmf-objects.ts";

const ORDER = `subsystem ${DISCOVERY_NQN}`;

export function isDiscovery({ target }: Context, nqn: string): boolean {
  return nqn === DISCOVERY_NQN && target.discovery;
}

export function startDiscovery({ target, release }: Context, asked: AskedAddress): Later {
  const address = addressOf(asked);
  const complete = () => {
    const { discoveryListeners: listeners } = target;
    const known = listeners.some((one) => sameAddress(one, address));
    if (known && release.repeatsAccess) return true;
    if (known || !canListen(target, address)) throw nvmfInvalid();
    target.discoveryListeners = [address, ...listeners];
    return true;
  };
  return { kind: "later", polls: 0, order: ORDER, complete };
}

export function stopDiscovery({ target }: Context, asked: AskedAddress): Later {
  const address = addressOf(asked);
  const complete = () => {
    const { discoveryListeners: listeners } = target;
    const others = listeners.filter((one) => !sameAddress(one, address));
    if (others.length === listeners.length) throw nvmfInvalid();
    target.discoveryListeners = others;
    return true;
  };
  return { kind: "later", polls: 0, order: ORDER, complete };
}
