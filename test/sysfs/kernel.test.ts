import { mkdir, readFile, readdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { openKernel } from "../../src/sysfs/kernel.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

test("absent files read as undefined, absent folders list as empty", async () => {
  await using folder = await temporaryFolder();
  const kernel = openKernel(folder.path);
  expect(await kernel.read("/sys/nothing")).toBeUndefined();
  expect(await kernel.readLink("/sys/nothing")).toBeUndefined();
  expect(await kernel.realPath("/sys/nothing")).toBeUndefined();
  expect(await kernel.list("/sys/nothing")).toEqual([]);
});

test("text is trimmed, folders are listed in order", async () => {
  await using folder = await temporaryFolder();
  await writeFile(join(folder.path, "serial"), "RIGBLANK0001        \n");
  await writeFile(join(folder.path, "address"), "\n");
  const kernel = openKernel(folder.path);
  expect(await kernel.read("/serial")).toBe("RIGBLANK0001");
  expect(await kernel.read("/address")).toBe("");
  expect(await kernel.list("/")).toEqual(["address", "serial"]);
});

test("a real path is below the root, else undefined", async () => {
  await using folder = await temporaryFolder();
  await mkdir(join(folder.path, "sys/devices/a"), { recursive: true });
  await symlink("devices/a", join(folder.path, "sys/link"));
  await symlink("/etc", join(folder.path, "sys/out"));
  const kernel = openKernel(`${folder.path}/`);
  expect(await kernel.realPath("/sys/link")).toBe("/sys/devices/a");
  expect(await kernel.readLink("/sys/link")).toBe("devices/a");
  expect(await kernel.realPath("/")).toBe("/");
  expect(await kernel.realPath("/sys/out")).toBeUndefined();
});

test("a failed write has its errno and creates no file", async () => {
  await using folder = await temporaryFolder();
  const kernel = openKernel(folder.path);
  await expect(kernel.write("/unbind", "0000:00:04.0")).rejects.toMatchObject({ code: "ENOENT" });
  expect(await readdir(folder.path)).toEqual([]);
  await writeFile(join(folder.path, "unbind"), "");
  await kernel.write("/unbind", "0000:00:04.0");
  expect(await readFile(join(folder.path, "unbind"), "latin1")).toBe("0000:00:04.0");
});

test("an empty write and a relative path are refused", async () => {
  await using folder = await temporaryFolder();
  const kernel = openKernel(folder.path);
  await writeFile(join(folder.path, "driver_override"), "vfio-pci\n");
  await expect(kernel.write("/driver_override", "")).rejects.toThrow(RangeError);
  await expect(kernel.write("driver_override", "\n")).rejects.toThrow(RangeError);
  expect(await kernel.read("/driver_override")).toBe("vfio-pci");
});

test("only a block device can be opened exclusively, and reads end at the end of the device", async () => {
  await using folder = await temporaryFolder();
  await writeFile(join(folder.path, "disk"), "0123456789");
  const kernel = openKernel(folder.path);
  await expect(kernel.openExclusive("/disk")).rejects.toThrow("not a block device");
  await expect(kernel.openExclusive("/none")).rejects.toMatchObject({ code: "ENOENT" });
  const text = async (offset: bigint, length: number) =>
    Buffer.from(await kernel.readBlocks("/disk", offset, length)).toString();
  expect(await text(2n, 4)).toBe("2345");
  expect(await text(8n, 4)).toBe("89");
});
