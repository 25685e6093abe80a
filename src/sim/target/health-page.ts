// bdev_nvme_get_controller_health_info (docs/spdk-contract.md#detach-states-and-health).
import { decode, DecodeFailed, required, text } from "./decode.ts";
import type { Drive } from "./drive.ts";
import type { JsonValue } from "./json.ts";
import type { Context, Started } from "./method.ts";
import { asyncErrno, RpcError } from "./rpc-error.ts";

declare global {
  interface JSON {
    /** ECMAScript 2026. */
    rawJSON(text: string): object;
  }
}

const POLLS = 8;
const INTERNAL = -32603;
const ZERO_CELSIUS_KELVIN = 273n;

export function health({ target }: Context, params: JsonValue | undefined): Started {
  let name: string;
  try {
    ({ name } = decode(params, { name: required(text) }));
  } catch (error) {
    if (!(error instanceof DecodeFailed)) throw error;
    const missing = params === undefined || params === null;
    throw new RpcError(INTERNAL, missing ? "Missing device name" : "Invalid parameters");
  }
  const controller = target.controllers.get(name);
  if (controller === undefined) throw new RpcError(INTERNAL, "Device not found");
  const {
    paths,
    disks: [disk],
  } = controller;
  if (disk === undefined) throw new RpcError(INTERNAL, "Device not found");
  return {
    kind: "later",
    polls: POLLS,
    // Admin commands wait until the reset is over.
    isDue: () => disk.drive.controller !== "resetting" || !target.controllers.has(name),
    complete: () => {
      if (!target.controllers.has(name)) throw asyncErrno("EIO", INTERNAL);
      if (disk.drive.controller === "failed") throw new RpcError(INTERNAL, "Internal error.");
      const { serial, model } = disk.facts;
      return {
        model_number: model,
        serial_number: serial,
        firmware_revision: "1.0",
        traddr: paths[0]?.traddr ?? "",
        ...pageJson(disk.drive),
      };
    },
  };
}

function pageJson({
  controller: _controller,
  temperature_kelvin: kelvin,
  ...page
}: Drive): Readonly<Record<string, unknown>> {
  const celsius = BigInt.asUintN(64, BigInt(kelvin) - ZERO_CELSIUS_KELVIN);
  return {
    ...Object.fromEntries(Object.entries(page).map(([key, value]) => [key, exact(value)])),
    temperature_celsius: exact(celsius),
    controller_busy_time: 0,
    warning_temperature_time_minutes: 0,
    critical_composite_temperature_time_minutes: 0,
  };
}

/** A bare number in JSON, however large. */
function exact(value: number | string | bigint): object {
  return JSON.rawJSON(String(value));
}
