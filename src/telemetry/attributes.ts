// Names of attributes that no semantic convention has; docs/observability.md lists them. Where one
// has a name (rpc.*, db.*, error.type, service.*), that one is used.

export const ATTR = {
  /** lvol | disk */
  objectKind: "storagenode.object.kind",
  objectId: "storagenode.object.id",
  generation: "storagenode.generation",
  diskId: "storagenode.disk.id",
  loop: "storagenode.loop",
  step: "storagenode.step",
  /** ok | retry | fatal */
  stepResult: "storagenode.step.result",
  attempt: "storagenode.attempt",
  mutation: "storagenode.mutation",
  /** Intents and records that one transaction committed. */
  commitSize: "storagenode.commit.size",
  passObjects: "storagenode.pass.objects",
  passSteps: "storagenode.pass.steps",
  sysfsPath: "storagenode.sysfs.path",
  sysfsText: "storagenode.sysfs.text",
  /** Requests that had no answer yet when this one was made. */
  queued: "storagenode.spdk.queued",
  /** The answer lists everything there is. */
  dump: "storagenode.spdk.dump",
} as const;
