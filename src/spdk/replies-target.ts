// Replies about the target itself (docs/spdk-contract.md#the-target-itself), parsed once into exact
// types.

import { big, flag, integer, list, object, text, type Read } from "./fields.ts";

export type Version = {
  /** For logs; compare major and minor. */
  readonly version: string;
  readonly major: number;
  readonly minor: number;
  readonly patch: number;
  readonly suffix: string;
};

/**
 * A bdev was registered, unregistered or (from 25.09) resized. `bdevName` of an lvol is its uuid.
 */
export type Notification = {
  readonly type: string;
  readonly bdevName: string;
  readonly id: number;
};

export type Reactor = {
  /** The CPU that it runs on; undefined: not told. */
  readonly core: number | undefined;
  /** From 24.09 on. */
  readonly tid: number | undefined;
  /** Ticks since the start of the reactor, which stand still in interrupt mode. */
  readonly busy: bigint;
  readonly idle: bigint;
  readonly inInterrupt: boolean;
};

export type Reactors = {
  /** From 24.09 on. */
  readonly pid: number | undefined;
  readonly reactors: readonly Reactor[];
};

export const version: Read<Version> = object((reply) =>
  reply.get(
    "fields",
    object((fields) => ({
      version: reply.get("version", text),
      major: fields.get("major", integer),
      minor: fields.get("minor", integer),
      patch: fields.get("patch", integer),
      suffix: fields.get("suffix", text),
    })),
  ),
);

export const notification: Read<Notification> = object((fields) => ({
  type: fields.get("type", text),
  bdevName: fields.get("ctx", text),
  id: fields.get("id", integer),
}));

const reactor: Read<Reactor> = object((fields) => ({
  core: fields.optional("lcore", integer),
  tid: fields.optional("tid", integer),
  busy: fields.get("busy", big),
  idle: fields.get("idle", big),
  inInterrupt: fields.optional("in_interrupt", flag) ?? false,
}));

export const reactors: Read<Reactors> = object((fields) => ({
  pid: fields.optional("pid", integer),
  reactors: fields.get("reactors", list(reactor)),
}));

/** The pid in the name of the target's trace file; undefined where it is named otherwise. */
export const tracePid: Read<number | undefined> = object((fields) => {
  const digits = /\.pid(\d+)$/.exec(fields.optional("tpoint_shm_path", text) ?? "")?.[1];
  return digits === undefined ? undefined : Number(digits);
});
