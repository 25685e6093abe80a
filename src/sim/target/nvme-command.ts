// bdev_nvme_send_cmd: an NVMe command to a controller, of which only Identify Namespace is carried out
// (docs/spdk-contract.md#detach-states-and-health).
import { decode, DecodeFailed, oneOf, optional, required, text, unsigned } from "./decode.ts";
import type { JsonValue } from "./json.ts";
import type { DiskFacts } from "./media.ts";
import type { Context, Started } from "./method.ts";
import { TargetAbort } from "./operation.ts";
import { asyncErrno } from "./rpc-error.ts";

const COMMAND_BYTES = 64;
const COMPLETION_BYTES = 16;
const IDENTIFY_BYTES = 4_096;

const IDENTIFY = 0x06;
const INVALID_OPCODE = 0x01;

/** Read 000b: what a deallocated block reads is not reported; 001b: zeros. */
const DLFEAT = { keeps: 0b000, zeroes: 0b001 } as const;
const DLFEAT_BYTE = 33;

export function sendCommand(context: Context, params: JsonValue | undefined): Started {
  const { target, strict, method, id } = context;
  const { name, type, command, dataBytes } = decodeCommand(params);
  const controller = target.controllers.get(name);
  if (controller === undefined) throw asyncErrno("EINVAL");
  const opcode = command.readUInt8(0);
  if (strict && (type !== "admin" || opcode !== IDENTIFY)) {
    throw new TargetAbort(`${method} (id ${id}) of opcode ${opcode}, ${type} (strict)`);
  }
  return {
    kind: "later",
    polls: 1,
    complete: () => {
      const data = Buffer.alloc(dataBytes);
      const status = type === "admin" && opcode === IDENTIFY ? 0 : INVALID_OPCODE;
      const nsid = command.readUInt32LE(4);
      // Of a namespace that is not there, nothing but zeros (measured).
      const disk = controller.disks.find(({ facts }) => facts.nsid === nsid);
      if (status === 0 && disk !== undefined) identify(disk.facts).copy(data);
      return { cpl: encoded(completionOf(status)), ...(dataBytes > 0 && { data: encoded(data) }) };
    },
  };
}

function decodeCommand(params: JsonValue | undefined) {
  try {
    const asked = decode(params, {
      name: required(text),
      cmd_type: required(oneOf("admin", "io")),
      data_direction: required(oneOf("h2c", "c2h")),
      cmdbuf: required(command),
      timeout_ms: optional(unsigned(32)),
      data_len: optional(unsigned(32)),
    });
    const { name, cmd_type: type, cmdbuf, data_len: dataBytes = 0 } = asked;
    return { name, type, command: cmdbuf, dataBytes };
  } catch (error) {
    if (!(error instanceof DecodeFailed)) throw error;
    throw asyncErrno("EINVAL");
  }
}

/** 64 bytes in the URL-safe alphabet, padded: the target takes no shorter form. */
function command(value: JsonValue): Buffer {
  const encodedText = text(value);
  const bytes = Buffer.from(encodedText, "base64url");
  if (bytes.length !== COMMAND_BYTES || encoded(bytes) !== encodedText) {
    throw new DecodeFailed("not a command of 64 bytes");
  }
  return bytes;
}

function identify({ numBlocks, blockSize, unmap }: DiskFacts): Buffer {
  const data = Buffer.alloc(IDENTIFY_BYTES);
  for (const at of [0, 8, 16]) data.writeBigUInt64LE(BigInt(numBlocks), at);
  data.writeUInt8(DLFEAT[unmap], DLFEAT_BYTE);
  data.writeUInt8(Math.log2(blockSize), 130);
  return data;
}

/** Status field, from bit 1 of its 16: status code, and "do not retry" for an error. */
function completionOf(statusCode: number): Buffer {
  const completion = Buffer.alloc(COMPLETION_BYTES);
  completion.writeUInt16LE((statusCode << 1) | (statusCode === 0 ? 0 : 0x8000), 14);
  return completion;
}

function encoded(bytes: Buffer): string {
  return bytes.toString("base64").replaceAll("+", "-").replaceAll("/", "_");
}
