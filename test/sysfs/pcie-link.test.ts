// The PCIe link of a drive against what it could be.
import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import { openKernel } from "../../src/sysfs/kernel.ts";
import { readPcieLink } from "../../src/sysfs/pcie-link.ts";
import { materialise } from "../support/materialise.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const ADDRESS = "0000:01:00.0";

/** A drive below a port: [speed, width] now, at most, and what the port has at most. */
async function linkOf(
  now: readonly [string, string],
  most: readonly [string, string],
  port: readonly [string, string] | undefined,
) {
  await using folder = await temporaryFolder();
  const bridge = join(folder.path, "sys/devices/pci0000:00/0000:00:01.0");
  const device = join(bridge, ADDRESS);
  await mkdir(device, { recursive: true });
  await mkdir(join(folder.path, "sys/bus/pci/devices"), { recursive: true });
  const link = `../../../devices/pci0000:00/0000:00:01.0/${ADDRESS}`;
  await symlink(link, join(folder.path, "sys/bus/pci/devices", ADDRESS));
  const write = async (at: string, kind: string, [speed, width]: readonly [string, string]) => {
    await writeFile(join(at, `${kind}_link_speed`), `${speed}\n`);
    await writeFile(join(at, `${kind}_link_width`), `${width}\n`);
  };
  await write(device, "current", now);
  await write(device, "max", most);
  if (port !== undefined) await write(bridge, "max", port);
  return await readPcieLink(openKernel(folder.path), ADDRESS);
}

const GEN4 = ["16.0 GT/s PCIe", "4"] as const;
const GEN3 = ["8.0 GT/s PCIe", "4"] as const;

it.each([
  ["as fast as it could be", GEN4, GEN4, ["32.0 GT/s PCIe", "16"], [16, 4, 16, 4]],
  ["slower than drive and slot", GEN3, GEN4, GEN4, [8, 4, 16, 4]],
  ["with fewer lanes", ["16.0 GT/s PCIe", "1"], GEN4, GEN4, [16, 1, 16, 4]],
  ["in a slot that cannot do more", GEN3, GEN4, ["8.0 GT/s PCIe", "16"], [8, 4, 8, 4]],
  ["below a port that says nothing", GEN4, GEN4, undefined, [16, 4, 16, 4]],
  ["of 2.5 GT/s", ["2.5 GT/s PCIe", "2"], GEN4, GEN4, [2.5, 2, 16, 4]],
] as const)("a link %s", async (_what, now, most, port, expected) => {
  const [gigatransfers, lanes, maxGigatransfers, maxLanes] = expected;
  expect(await linkOf(now, most, port)).toEqual({
    gigatransfers,
    lanes,
    maxGigatransfers,
    maxLanes,
  });
});

it.each([
  ["its speed is unknown", ["Unknown", "4"]],
  ["its width is 0", ["16.0 GT/s PCIe", "0"]],
  ["its width is 255", ["16.0 GT/s PCIe", "255"]],
] as const)("nothing is known of a link if %s", async (_what, now) => {
  expect(await linkOf(now, GEN4, GEN4)).toBeUndefined();
});

it("nothing is known of an emulated drive, or of one that is not there", async () => {
  await using folder = await temporaryFolder();
  await materialise("vfio-bound", folder.path);
  const kernel = openKernel(folder.path);
  expect(await readPcieLink(kernel, "0000:00:04.0")).toBeUndefined();
  expect(await readPcieLink(kernel, "0000:77:00.0")).toBeUndefined();
});
