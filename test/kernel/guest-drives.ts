// What the tests do to drives inside the guest, and what its kernel says of them.
import {
  addressOf,
  nameOf,
  pluggedDevice,
  type EmulatedDrive,
  type PluggableDrive,
} from "./drives.ts";
import type { Machine } from "./machine.ts";

const DEVICES = "/sys/bus/pci/devices";

export const SPDK_SOCKET = "/run/spdk.sock";

/** For the simulated target: which drive is in a slot, as others are plugged in. */
export const SLOTS = "/run/sim/slots";

type Drive = EmulatedDrive | PluggableDrive;

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
export async function blockDevice(machine: Machine, { serial }: Drive, nsid = 1): Promise<string> {
  return await machine.sh(`${BLOCK_DEVICE}\nblock_device ${serial} ${nsid}`);
}

/** The name of the driver that has the drive; empty: none. */
export async function driverOf(machine: Machine, drive: Drive): Promise<string> {
  return await machine.sh(`basename "$(readlink ${deviceOf(drive)}/driver)"`);
}

/** Makes a file system on the drive; an admission is of what was there before. */
export async function makeFileSystem(machine: Machine, drive: Drive): Promise<string> {
  const device = await blockDevice(machine, drive);
  await machine.sh(`mkfs.ext4 -q ${device}`);
  return device;
}

export async function mount(machine: Machine, drive: Drive): Promise<void> {
  const device = await makeFileSystem(machine, drive);
  const at = `/mnt/${drive.serial}`;
  await machine.sh(`mkdir -p ${at} && mount -t ext4 ${device} ${at} && echo kept >${at}/file`);
}

export async function swapOn(machine: Machine, drive: Drive): Promise<void> {
  const device = await blockDevice(machine, drive);
  await machine.sh(`mkswap ${device} && swapon ${device}`);
}

/** Stacks a device-mapper device on the whole drive. */
export async function stackOn(machine: Machine, drive: Drive): Promise<void> {
  const device = await blockDevice(machine, drive);
  await machine.sh(
    `size=$(blockdev --getsz ${device}) &&
     dmsetup create --noudevsync --noudevrules held --table "0 $size linear ${device} 0"`,
  );
}

/** As somebody does who wants another driver to have it from the next probe on. */
export async function override(machine: Machine, drive: Drive, driver: string): Promise<void> {
  await machine.sh(`echo ${driver} >${deviceOf(drive)}/driver_override`);
}

/**
 * Makes the kernel show a drive's EUI64: it ignores those of QEMU's drives, as earlier ones were not unique,
 * unless they are probed as drives that it does not know. So are all that are probed from here on.
 */
export async function showIdentifiers(machine: Machine, drive: EmulatedDrive): Promise<void> {
  await machine.sh(
    `echo 1b36 0010 ffffffff ffffffff 0 0 0 >/sys/bus/pci/drivers/nvme/new_id
     echo ${addressOf(drive)} >${deviceOf(drive)}/driver/unbind
     echo ${addressOf(drive)} >/sys/bus/pci/drivers_probe
     until cat ${deviceOf(drive)}/nvme/nvme*/nvme*n1/eui; do usleep 50000; done`,
  );
}

/** As scripts do that prepare drives for SPDK. */
export async function bindToVfio(machine: Machine, drive: Drive): Promise<void> {
  const address = addressOf(drive);
  await override(machine, drive, "vfio-pci");
  await machine.sh(
    `echo ${address} >${deviceOf(drive)}/driver/unbind &&
     echo ${address} >/sys/bus/pci/drivers_probe`,
  );
  await clearOverride(machine, drive);
}

async function clearOverride(machine: Machine, drive: Drive): Promise<void> {
  await machine.sh(`echo >${deviceOf(drive)}/driver_override`);
}

export async function unplug(machine: Machine, drive: Drive): Promise<void> {
  await machine.sh(`echo 1 >${deviceOf(drive)}/remove`);
}

export async function plugInAgain(machine: Machine): Promise<void> {
  await machine.sh("echo 1 >/sys/bus/pci/rescan");
}

/** Pulls a drive out of its port, as somebody who has pressed its button. */
export async function pullOut(machine: Machine, drive: PluggableDrive): Promise<void> {
  await machine.monitor.removeDevice(nameOf(drive));
}

/** Plugs a drive into its port, which is empty; resolves when the kernel's driver shows it. */
export async function plugIn(machine: Machine, drive: PluggableDrive): Promise<void> {
  await putInSlot(machine, drive);
  await machine.monitor.addDevice(pluggedDevice(drive));
  const namespace = `${deviceOf(drive)}/nvme/nvme*/nvme*n1`;
  await machine.sh(`until ls ${namespace} >/dev/null 2>&1; do usleep 50000; done`);
}

/** Tells the simulated target which drive it is, as it cannot read that. */
export async function putInSlot(machine: Machine, drive: PluggableDrive): Promise<void> {
  await machine.sh(`mkdir -p ${SLOTS} && echo ${nameOf(drive)} >${SLOTS}/${addressOf(drive)}`);
}

/** Asks the target as an operator does who has its socket; its answer as text. */
export async function callTarget(
  machine: Machine,
  method: string,
  params: object,
): Promise<string> {
  const request = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
  return await machine.sh(
    `node -e 'const socket = net.connect("${SPDK_SOCKET}", () => socket.write(process.argv[1]));
       socket.once("data", (text) => { console.log(String(text)); socket.end(); })' '${request}'`,
  );
}

export function deviceOf(drive: Drive): string {
  return `${DEVICES}/${addressOf(drive)}`;
}
