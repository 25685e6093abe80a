// Orders of the control socket that read and write lvols without a host.
import { readLvol, refuseGrownClone, writeLvol } from "./clusters.ts";
import type { OrderOf } from "./control-orders.ts";
import type { Engine } from "./engine.ts";
import type { LvolBdev, Target } from "./target.ts";

/** Writes as a host would, without access checks; answers once the bytes are on the disk. */
export function write(
  { release, target }: Engine,
  { lvol: name, offset, hex, times }: OrderOf<"write">,
): object {
  const bytes = Buffer.from(hex.repeat(times), "hex");
  const lvol = lvolWith(target, name, offset, bytes.length);
  if (lvol.blob.readOnly || lvol.blob.snapshot) return { error: `${name} is read-only` };
  const clusters = Math.ceil((offset + bytes.length) / lvol.store.store.clusterBytes);
  refuseGrownClone({ release, method: "a write" }, lvol, clusters);
  writeLvol(lvol, offset, bytes);
  target.flush();
  return { done: true };
}

export function read({ target }: Engine, { lvol: name, offset, bytes }: OrderOf<"read">): object {
  const lvol = lvolWith(target, name, offset, bytes);
  return { hex: readLvol(lvol, offset, bytes).toString("hex") };
}

/** Marks an lvol: each add_ns of it aborts the target, also after a restart. */
export function abortOnAddNamespace(
  { target }: Engine,
  { lvol: name, set }: OrderOf<"abort_on_add_ns">,
): object {
  const lvol = lvolNamed(target, name);
  lvol.store.base.disk.setTrap(lvol.uuid, set);
  target.flush();
  return { done: true };
}

function lvolNamed(target: Target, name: string): LvolBdev {
  const lvol = target.lvol(name);
  if (lvol === undefined) throw new Error(`no lvol ${name}`);
  return lvol;
}

function lvolWith(target: Target, name: string, offset: number, bytes: number): LvolBdev {
  const lvol = lvolNamed(target, name);
  const size = lvol.numBlocks * lvol.store.base.disk.facts.blockSize;
  if (offset + bytes > size) {
    throw new Error(
      `${bytes} bytes at offset ${offset} are beyond the end of ${name} (${size} bytes)`,
    );
  }
  return lvol;
}
