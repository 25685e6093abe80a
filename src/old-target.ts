// What an old SPDK release cannot do is refused at the call (docs/spdk-contract.md#release-differences). While
// the release is not known, as the target gives no answer, the intent is taken: its step asks again.
import { Refusal } from "./model/errors.ts";
import type { ObservedVolume } from "./model/lvol.ts";
import { noClones, type Capabilities } from "./spdk/capabilities.ts";

type Spdk = { readonly capabilities: () => Promise<Capabilities> };

async function known(spdk: Spdk): Promise<Capabilities | undefined> {
  return await spdk.capabilities().catch(() => undefined);
}

/** Throws a Refusal if the target would die of it that the volume is grown. */
export async function refuseFatalGrowth(
  spdk: Spdk,
  { row, observed }: { readonly row: { readonly id: string }; readonly observed: ObservedVolume },
): Promise<void> {
  if (observed.lvol?.kind !== "present" || observed.lvol.parent === undefined) return;
  const target = await known(spdk);
  if (target === undefined || target.growsClones) return;
  const why = `${target.version} dies when a volume with a snapshot is grown`;
  throw new Refusal("TARGET_TOO_OLD", `volume ${row.id}: the target ${why}`);
}

/** Throws a Refusal if the target cannot make a clone. */
export async function refuseCloneOnOldTarget(spdk: Spdk, id: string): Promise<void> {
  const target = await known(spdk);
  if (target === undefined || target.setParent) return;
  throw new Refusal("TARGET_TOO_OLD", `volume ${id}: ${noClones(target)}`);
}
