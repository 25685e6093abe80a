// Calls that only bring back what was wanted and is gone with a target that died: attached disks and
// exports, with the hosts that were allowed. None of them makes or deletes an lvol or a store.
const RESTORING = new Set([
  "bdev_nvme_attach_controller",
  "nvmf_create_transport",
  "nvmf_create_subsystem",
  "nvmf_subsystem_add_host",
  "nvmf_subsystem_remove_host",
  "nvmf_subsystem_allow_any_host",
  "nvmf_subsystem_add_listener",
  "nvmf_subsystem_add_ns",
]);

/** Whether a method may be sent while the database is away. */
export function restores(method: string): boolean {
  return RESTORING.has(method);
}
