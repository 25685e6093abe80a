// What the agent in the guest says of a drive.
import { call, until } from "../support/agent.ts";
import { controllersOf, diskOf } from "../support/drives.ts";
import { addressOf, type EmulatedDrive, type PluggableDrive } from "./drives.ts";
import type { GuestNode } from "./guest-node.ts";

type Drive = EmulatedDrive | PluggableDrive;

export async function controllerAt(node: GuestNode, drive: Drive) {
  const controllers = await controllersOf(node);
  return controllers.find(({ address }) => address === addressOf(drive));
}

/** The evidence against a disk of the drive, a line for each: kind, subject and detail. */
export async function evidenceOf(node: GuestNode, { serial }: Drive, nsid = 1): Promise<string> {
  const disk = await diskOf(node, serial, nsid);
  const lines = disk?.evidence.map(({ kind, subject, detail }) => `${kind} ${subject} ${detail}`);
  return (lines ?? []).join("\n");
}

export async function diskIdOf({ client }: GuestNode, serial: string): Promise<string> {
  const request = { pageSize: 0, pageToken: "" };
  const { disks } = await call(client, client.listDisks.bind(client), request);
  const found = disks.find(({ status }) => status?.serial === serial && status.nsid === 1);
  return found?.meta?.id ?? "";
}

/** Resolves when an agent that was started again has its lease, and has planned everything once. */
export async function isReady({ client }: GuestNode): Promise<void> {
  await until("the agent is ready", async () => {
    const { ready } = await call(client, client.getHealth.bind(client), {});
    return ready;
  });
}

/** Resolves when the controller of the drive is attached. */
export async function isAttached(node: GuestNode, drive: Drive): Promise<void> {
  await until("its controller is attached", async () => {
    return (await controllerAt(node, drive))?.state === "ATTACHED";
  });
}
