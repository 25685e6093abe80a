import { expect, test } from "vitest";
import { classify, SpdkError } from "../../src/spdk/errors.ts";

// Codes and texts measured on real targets: docs/spdk-contract.md#error-codes,
// docs/spdk-contract.md#error-texts.
test.each([
  ["bdev_get_bdevs", -19, "No such device", "absent"],
  ["bdev_get_bdevs", -110, "Connection timed out", "timeout"],
  ["bdev_nvme_attach_controller", -19, "No such device", "vague"],
  ["bdev_nvme_attach_controller", -17, "File exists", "conflict"],
  ["bdev_nvme_attach_controller", -114, "A controller named x already exists", "exists"],
  ["bdev_nvme_attach_controller", -5, "Input/output error", "io"],
  ["bdev_nvme_detach_controller", -19, "No such device", "absent"],
  ["bdev_nvme_get_controllers", -22, "Controller x does not exist", "absent"],
  ["bdev_nvme_get_controllers", 22, "Controller x does not exist", "absent"],
  ["bdev_nvme_get_controller_health_info", -32603, "Device not found", "absent"],
  ["bdev_nvme_get_controller_health_info", -32603, "Internal error.", "io"],
  ["bdev_lvol_create_lvstore", -1, "Operation not permitted", "not_permitted"],
  ["bdev_lvol_create_lvstore", -17, "File exists", "exists"],
  ["bdev_lvol_create_lvstore", -22, "Invalid argument", "invalid"],
  ["bdev_lvol_create", -17, "File exists", "exists"],
  ["bdev_lvol_create", -32602, "No space left on device", "no_space"],
  ["bdev_lvol_create", -32602, "Cannot allocate memory", "no_memory"],
  ["bdev_lvol_create", -32602, "Input/output error", "io"],
  ["bdev_lvol_create", -32603, "spdk_json_decode_object failed", "internal"],
  ["bdev_lvol_resize", -32602, "Device or resource busy", "busy"],
  ["bdev_lvol_snapshot", -32602, "File exists", "exists"],
  ["bdev_lvol_snapshot", -32602, "Invalid argument", "invalid"],
  ["bdev_lvol_delete", -19, "No such device", "absent"],
  ["bdev_lvol_delete", -32603, "Operation not permitted", "not_permitted"],
  ["bdev_lvol_delete", -32603, "Device or resource busy", "busy"],
  ["nvmf_get_subsystems", -32602, "Subsystem with NQN 'x' not found", "absent"],
  ["nvmf_get_subsystems", -19, "No such device", "absent"],
  ["nvmf_delete_subsystem", -32602, "Subsystem with NQN 'x' not found", "absent"],
  ["nvmf_delete_subsystem", -32603, "Subsystem is already being destroyed.", "busy"],
  ["nvmf_create_subsystem", -32603, "Unable to create subsystem x", "vague"],
  ["nvmf_create_transport", -32603, "Transport type 'TCP' already exists", "exists"],
  ["nvmf_subsystem_add_host", -32603, "Internal error", "vague"],
  ["nvmf_subsystem_add_ns", -32602, "Invalid parameters", "vague"],
  ["nvmf_subsystem_add_ns", -32603, "subsystem busy, retry later.", "busy"],
  ["nvmf_ns_add_host", -32601, "Method not found", "unsupported"],
  ["bdev_get_bdevs", -9999, "?", "internal"],
])("%s %i %s is %s", (method, code, message, kind) => {
  expect(classify(method, code, message)).toBe(kind);
});

test("the message has method, code and kind; SPDK's text is only in spdkMessage", () => {
  const error = new SpdkError("bdev_lvol_delete", -19, "No such device");
  expect(error.message).toBe("bdev_lvol_delete answered -19 (absent)");
  expect(error.spdkMessage).toBe("No such device");
});
