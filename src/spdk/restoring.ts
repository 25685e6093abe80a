// SPDK methods that only restore the state that a restarted target has lost: attached disks, and
// exports with their allowed hosts and limits. None of them creates or deletes an lvol or an lvstore.
const RESTORING = new Set([
  "bdev_nvme_attach_controller",
  "nvmf_create_transport",
  "nvmf_create_subsystem",
  "nvmf_subsystem_add_host",
  "nvmf_subsystem_remove_host",
  "nvmf_subsystem_allow_any_host",
  "nvmf_subsystem_add_listener",
  "nvmf_subsystem_remove_listener",
  "nvmf_subsystem_add_ns",
  "bdev_set_qos_limit",
]);

/** Whether a method may be sent in write mode restore-only (the database is unreachable). */
export function restores(method: string): boolean {
  return RESTORING.has(method);
}
