/** A rule of the simulated target's gate. While it is on, no disk is attached, so no store is loaded. */
export const NO_ATTACH = {
  effect: "fail",
  method: "bdev_nvme_attach_controller",
  nth: 1,
  always: true,
  failure: { code: -5, message: "Input/output error", half: false },
} as const;
