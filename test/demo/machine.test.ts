// `storage-node demo --machine`: the machine of docs/simulator.md, with which an operator rehearses what to do about disks.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import { z } from "zod";
import { readMachine } from "../../src/demo/machine-file.ts";
import { demoFolder, type DemoFolder, type RunningDemo } from "../support/demo.ts";
import { call } from "../support/agent.ts";
import { storageNode } from "../support/explain.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const DOCS = new URL("../../docs/simulator.md", import.meta.url);

/** As the documentation shows it. */
async function documented() {
  const text = await readFile(DOCS, "utf8");
  const json = /^ {4}\{"drives": [^]*?\]\}$/m.exec(text)?.[0] ?? "";
  return z
    .object({ drives: z.array(z.looseObject({ serial: z.string() })) })
    .parse(JSON.parse(json));
}

async function start({ path, start: run }: DemoFolder, content: object): Promise<RunningDemo> {
  const machine = join(path, "machine.json");
  await writeFile(machine, JSON.stringify(content));
  return await run({ machine });
}

async function disks({ client }: RunningDemo) {
  const page = { pageSize: 0, pageToken: "" };
  const { disks: listed } = await call(client, client.listDisks.bind(client), page);
  return new Map(listed.map((disk) => [disk.status?.serial, disk]));
}

async function states(demo: RunningDemo): Promise<Readonly<Record<string, string>>> {
  const found = [...(await disks(demo))].map(([serial, { status }]) => [serial, status?.state]);
  return z.record(z.string(), z.string()).parse(Object.fromEntries(found));
}

it("shows the drives of the file as they are, and with the next start those of then", async () => {
  await using folder = await demoFolder();
  const { drives } = await documented();
  const first = await start(folder, { drives });
  expect(await states(first)).toEqual({
    BLANK: "DISK_STATE_DISCOVERED",
    USED: "DISK_STATE_FOREIGN",
    MOUNTED: "DISK_STATE_IN_USE",
  });
  const at = ["--address", first.address];
  expect((await storageNode(["disk", "list", ...at])).out).toMatch(/0000:04:00.0 .*UNIDENTIFIED/);
  const blank = (await disks(first)).get("BLANK")?.meta?.id ?? "";
  const admitted = await storageNode(["disk", "admit", blank, "--wait", "60", ...at]);
  expect(admitted).toMatchObject({ code: 0, err: "" });
  expect(await first.end("SIGTERM")).toBe(0);

  const kept = drives.filter(({ serial }) => serial === "BLANK");
  const other = { serial: "OTHER", address: "0000:03:00.0" };
  const second = await start(folder, { drives: [...kept, other], iommu: false });
  expect(await states(second)).toMatchObject({ OTHER: "DISK_STATE_DISCOVERED" });
  const other2 = (await disks(second)).get("OTHER");
  expect(other2?.status?.evidence.map(({ kind }) => kind)).toEqual(["NO_IOMMU"]);
  expect(await second.end("SIGTERM")).toBe(0);
});

it("says what is wrong with the file", async () => {
  await using folder = await temporaryFolder();
  const path = join(folder.path, "machine.json");
  await writeFile(path, JSON.stringify({ drives: [{ serial: "A", address: "1" }], iomu: true }));
  await expect(readMachine(path)).rejects.toThrow(/iomu[^]*drives\[0\]\.address/);
});
