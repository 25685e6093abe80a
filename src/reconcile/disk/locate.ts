// The locate LEDs of disks: which there are and how they are, as of the last scan, and their switching for a
// call. Nothing of it is kept in the database: the LED itself is the state.
import { hasDrive } from "../../model/controller.ts";
import type { DiskRow } from "../../model/disk.ts";
import { Refusal } from "../../model/errors.ts";
import type { Located } from "../../model/locate.ts";
import type { Rows } from "../../store/rows.ts";
import { errnoOf } from "../../sysfs/errno.ts";
import type { Kernel } from "../../sysfs/kernel.ts";
import { enclosureSlots, npemLed, readLed, switchLed, type Led } from "../../sysfs/locate-led.ts";
import type { Controllers } from "../controller/controllers.ts";

export type LocateOptions = {
  readonly kernel: Kernel;
  readonly rows: Rows;
  readonly controllers: Pick<Controllers, "placeOf" | "seenAt">;
  /** The LED of a disk is another one than before. */
  readonly onLocated: (id: string) => void;
};

export class Locators {
  readonly #options: LocateOptions;
  /** An empty slot of an enclosure does not say whose it was. */
  readonly #slots = new Map<string, Led>();
  /** By disk. */
  #on: ReadonlyMap<string, boolean> = new Map();

  constructor(options: LocateOptions) {
    this.#options = options;
  }

  /** Undefined: no LED is known of the disk's slot. */
  isOn(diskId: string): boolean | undefined {
    return this.#on.get(diskId);
  }

  async scan(): Promise<void> {
    const { kernel, rows, onLocated } = this.#options;
    for (const [address, led] of await enclosureSlots(kernel)) this.#slots.set(address, led);
    const now = new Map<string, boolean>();
    for (const row of rows.disks()) {
      const led = row.transport === "PCIe" ? await this.#ledOf(row) : undefined;
      const on = led && (await readLed(kernel, led));
      if (on !== undefined) now.set(row.id, on);
    }
    const before = this.#on;
    this.#on = now;
    for (const { id } of rows.disks()) if (before.get(id) !== now.get(id)) onLocated(id);
  }

  /** Throws a Refusal if there is no LED, or if it does not do as it is told. */
  async switch(row: DiskRow, on: boolean): Promise<Located> {
    const address = this.#addressOf(row);
    if (row.transport === "PCIe") await this.scan();
    const led = row.transport === "PCIe" ? await this.#ledOf(row) : undefined;
    if (led === undefined) throw new Refusal("NO_LED", this.#whyNone(row));
    let shows: boolean | undefined;
    try {
      shows = await switchLed(this.#options.kernel, led, on);
    } catch (error) {
      const message = `${led.path} cannot be written: ${errnoOf(error) ?? String(error)}`;
      throw new Refusal("NO_LED", message, { cause: error });
    }
    if (shows !== on) {
      const is = shows === undefined ? "cannot be read" : `is ${shows ? "on" : "off"}`;
      throw new Refusal("NO_LED", `${led.path} was written, and ${is} afterwards`);
    }
    this.#on = new Map([...this.#on, [row.id, on]]);
    this.#options.onLocated(row.id);
    return { kind: led.kind, address, on };
  }

  #addressOf(row: DiskRow): string {
    return this.#options.controllers.placeOf(row)?.address ?? row.address;
  }

  /** Of the slot that it is in, or was in last if no other drive is there now. */
  async #ledOf(row: DiskRow): Promise<Led | undefined> {
    const address = this.#addressOf(row);
    if (this.#isOthers(row, address)) return undefined;
    const npem = await npemLed(this.#options.kernel, address);
    const led = npem ?? this.#slots.get(address);
    return led !== undefined && (await readLed(this.#options.kernel, led)) !== undefined
      ? led
      : undefined;
  }

  #isOthers(row: DiskRow, address: string): boolean {
    const { controllers, rows } = this.#options;
    const seen = controllers.seenAt(address);
    if (seen.length > 0) return !seen.includes(row.id);
    const controller = rows.controller(address);
    return controller?.serial !== undefined && !hasDrive(controller, row);
  }

  #whyNone(row: DiskRow): string {
    if (row.transport !== "PCIe")
      return `disk ${row.id} is on a fabric: this node has no LED of it`;
    const address = this.#addressOf(row);
    if (this.#isOthers(row, address)) {
      return `disk ${row.id} was last at ${address}, where another drive is now`;
    }
    return (
      `this machine shows no LED for the slot of ${address}: neither NPEM (kernel 6.13 or later) nor an ` +
      `enclosure in /sys/class/enclosure has one`
    );
  }
}
