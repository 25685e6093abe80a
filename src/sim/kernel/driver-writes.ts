// Effects and errors of writes to bind, unbind, drivers_probe, driver_override and new_id, as
// measured on real kernels (docs/kernel.md#what-a-write-answers).
import { unlink } from "node:fs/promises";
import { unlessErrno } from "../../sysfs/errno.ts";
import { groupIsOpen } from "./vfio-users.ts";
import { devicePath, listHardware, readHardware, type Hardware } from "./hardware.ts";
import { DRIVERS, driverOf, VFIO_PCI } from "./settle.ts";
import { isLed } from "./slots.ts";
import type { Tree } from "./tree.ts";

/** Maximum bytes of a write to driver_override: a page minus the terminator. */
const OVERRIDE_BYTES = 4095;

/** The error of Node.js for a write to a sysfs attribute that fails with `code`. */
export function refuse(code: string, path: string): Error {
  return Object.assign(new Error(`${code}: write '${path}'`), { code, syscall: "write", path });
}

/** `path` has no symlinks. Returns the addresses of functions that were bound to a driver. */
export async function driverWrite(
  tree: Tree,
  path: string,
  text: string,
): Promise<readonly string[]> {
  const line = text.replace(/\n[^]*$/, "");
  const driverFile = new RegExp(`^${DRIVERS}/([^/]+)/(bind|unbind|new_id|remove_id)$`).exec(path);
  const override = /^\/sys\/devices\/(?:.+\/)?([^/]+)\/driver_override$/.exec(path);
  const write = { tree, path, line };
  if (path === "/sys/bus/pci/drivers_probe") return await probeAny(write);
  if (path === "/sys/bus/pci/rescan") return [];
  if (override !== null) {
    if (Buffer.byteLength(text) > OVERRIDE_BYTES) throw refuse("EINVAL", path);
    await tree.write(path, line === "" ? "(null)\n" : `${line}\n`);
    return [];
  }
  if (isLed(path)) {
    await tree.write(path, Number(line) > 0 ? "1\n" : "0\n");
    return [];
  }
  const [, driver = "", file] = driverFile ?? [];
  if (file === "bind") return await bind(write, driver);
  if (file === "unbind") return await unbind(write, driver);
  if (file === "new_id") return await addId(write, driver);
  if (file === "remove_id") return await removeId(write, driver);
  throw refuse("EACCES", path);
}

type Write = { readonly tree: Tree; readonly path: string; readonly line: string };

/** Binds a driverless function to the first matching driver. A failed probe is not an error. */
export async function probe(tree: Tree, hardware: Hardware): Promise<readonly string[]> {
  if ((await driverOf(tree, hardware)) !== undefined) return [];
  for (const driver of await tree.list(DRIVERS)) {
    if (!(await matches(tree, driver, hardware))) continue;
    if ((await attach(tree, driver, hardware)) === undefined) return [hardware.address];
  }
  return [];
}

async function probeAny({ tree, path, line }: Write): Promise<readonly string[]> {
  const hardware = await readHardware(tree, line);
  if (hardware === undefined) throw refuse("ENODEV", path);
  return await probe(tree, hardware);
}

async function bind({ tree, path, line }: Write, driver: string): Promise<readonly string[]> {
  const hardware = await readHardware(tree, line);
  if (hardware === undefined || !(await matches(tree, driver, hardware))) {
    throw refuse("ENODEV", path);
  }
  const bound = await driverOf(tree, hardware);
  if (bound !== undefined) {
    throw refuse(driver === "nvme" && bound !== "nvme" ? "ENODEV" : "EBUSY", path);
  }
  const failure = await attach(tree, driver, hardware);
  if (failure !== undefined) throw refuse(failure, path);
  return [line];
}

async function unbind({ tree, path, line }: Write, driver: string): Promise<readonly string[]> {
  const hardware = await readHardware(tree, line);
  if (hardware === undefined || (await driverOf(tree, hardware)) !== driver) {
    throw refuse("ENODEV", path);
  }
  await unlessErrno(unlink(tree.at(`${devicePath(hardware)}/driver`)), ["ENOENT"], undefined);
  return [];
}

/** Binds a function to a driver. Returns the errno of its probe, undefined on success. */
async function attach(tree: Tree, driver: string, hardware: Hardware): Promise<string | undefined> {
  const group = hardware.iommuGroup;
  if (driver === VFIO_PCI && group === undefined) return "EINVAL";
  if (driver !== VFIO_PCI && group !== undefined && groupIsOpen(tree.root, group)) {
    return "EBUSY";
  }
  if (driver === "nvme" && hardware.rejected === true) return "EINVAL";
  await tree.link(`${devicePath(hardware)}/driver`, `${DRIVERS}/${driver}`);
  return undefined;
}

async function matches(tree: Tree, driver: string, hardware: Hardware): Promise<boolean> {
  const override = (await tree.read(`${devicePath(hardware)}/driver_override`))?.trim();
  if (override !== undefined && override !== "(null)") return override === driver;
  if (hardware.driver === driver) return true;
  return (await readIds(tree, driver)).includes(idOf(hardware));
}

const idsPath = (driver: string) => `/var/sim/ids/${driver}`;

async function readIds(tree: Tree, driver: string): Promise<readonly string[]> {
  return ((await tree.read(idsPath(driver))) ?? "").split("\n").filter((line) => line !== "");
}

function idOf({ vendor, device }: Hardware): string {
  return `${Number(vendor).toString(16)} ${Number(device).toString(16)}`;
}

function parseId({ path, line }: Write): string {
  const id = /^([0-9a-f]{1,8}) ([0-9a-f]{1,8})( |$)/i.exec(line);
  if (id === null) throw refuse("EINVAL", path);
  return `${Number(`0x${id[1]}`).toString(16)} ${Number(`0x${id[2]}`).toString(16)}`;
}

/** new_id also binds every driverless function with that vendor and device immediately. */
async function addId(write: Write, driver: string): Promise<readonly string[]> {
  const { tree, path } = write;
  const id = parseId(write);
  const ids = await readIds(tree, driver);
  if (ids.includes(id)) throw refuse("EEXIST", path);
  await tree.write(idsPath(driver), [...ids, id, ""].join("\n"));
  const bound: string[] = [];
  for (const hardware of await listHardware(tree)) {
    if (idOf(hardware) === id) bound.push(...(await probe(tree, hardware)));
  }
  return bound;
}

async function removeId(write: Write, driver: string): Promise<readonly string[]> {
  const { tree, path } = write;
  const id = parseId(write);
  const ids = await readIds(tree, driver);
  if (!ids.includes(id)) throw refuse("ENODEV", path);
  await tree.write(idsPath(driver), [...ids.filter((one) => one !== id), ""].join("\n"));
  return [];
}
