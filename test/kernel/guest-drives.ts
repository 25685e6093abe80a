// What the tests do to drives inside the guest, and what its kernel says of them.
import type { EmulatedDrive } from "./drives.ts";
import { addressOf } from "./drives.ts";
import type { Machine } from "./machine.ts";

const DEVICES = "/sys/bus/pci/devices";

/** Shell: the block device of a namespace, by serial, as kernel names are not fixed. */
const BLOCK_DEVICE = `
block_device() {
  for controller in /sys/class/nvme/nvme*; do
    [ "$(tr -d ' \\n' <$controller/serial)" = "$1" ] || continue
    for namespace in $controller/nvme*n*; do
      [ "$(cat $namespace/nsid)" = "$2" ] && echo /dev/$(basename $namespace)
    done
  done
}`;

/** Path of the namespace's block device; empty if the kernel shows none. */
export async function blockDevice(
  machine: Machine,
  { serial }: EmulatedDrive,
  nsid = 1,
): Promise<string> {
  return await machine.sh(`${BLOCK_DEVICE}\nblock_device ${serial} ${nsid}`);
}

/** The name of the driver that has the drive; empty: none. */
export async function driverOf(machine: Machine, drive: EmulatedDrive): Promise<string> {
  return await machine.sh(`basename "$(readlink ${deviceOf(drive)}/driver)"`);
}

/** Makes a file system on the drive; an admission is of what was there before. */
export async function makeFileSystem(machine: Machine, drive: EmulatedDrive): Promise<string> {
  const device = await blockDevice(machine, drive);
  await machine.sh(`mkfs.ext4 -q ${device}`);
  return device;
}

export async function mount(machine: Machine, drive: EmulatedDrive): Promise<void> {
  const device = await makeFileSystem(machine, drive);
  const at = `/mnt/${drive.serial}`;
  await machine.sh(`mkdir -p ${at} && mount -t ext4 ${device} ${at} && echo kept >${at}/file`);
}

export async function swapOn(machine: Machine, drive: EmulatedDrive): Promise<void> {
  const device = await blockDevice(machine, drive);
  await machine.sh(`mkswap ${device} && swapon ${device}`);
}

/** Stacks a device-mapper device on the whole drive. */
export async function stackOn(machine: Machine, drive: EmulatedDrive): Promise<void> {
  const device = await blockDevice(machine, drive);
  await machine.sh(
    `size=$(blockdev --getsz ${device}) &&
     dmsetup create --noudevsync --noudevrules held --table "0 $size linear ${device} 0"`,
  );
}

/** As somebody does who wants another driver to have it from the next probe on. */
export async function override(
  machine: Machine,
  drive: EmulatedDrive,
  driver: string,
): Promise<void> {
  await machine.sh(`echo ${driver} >${deviceOf(drive)}/driver_override`);
}

/** As scripts do that prepare drives for SPDK. */
export async function bindToVfio(machine: Machine, drive: EmulatedDrive): Promise<void> {
  const address = addressOf(drive);
  await override(machine, drive, "vfio-pci");
  await machine.sh(
    `echo ${address} >${deviceOf(drive)}/driver/unbind &&
     echo ${address} >/sys/bus/pci/drivers_probe`,
  );
  await clearOverride(machine, drive);
}

async function clearOverride(machine: Machine, drive: EmulatedDrive): Promise<void> {
  await machine.sh(`echo >${deviceOf(drive)}/driver_override`);
}

export async function unplug(machine: Machine, drive: EmulatedDrive): Promise<void> {
  await machine.sh(`echo 1 >${deviceOf(drive)}/remove`);
}

export async function plugInAgain(machine: Machine): Promise<void> {
  await machine.sh("echo 1 >/sys/bus/pci/rescan");
}

export function deviceOf(drive: EmulatedDrive): string {
  return `${DEVICES}/${addressOf(drive)}`;
}
