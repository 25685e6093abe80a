// Replies about the target itself (docs/spdk-contract.md#the-target-itself), parsed once into exact
// types.

import { integer, object, text, type Read } from "./fields.ts";

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
