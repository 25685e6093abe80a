// Span attributes that OpenTelemetry's semantic conventions do not name, listed in
// docs/observability.md. For the others (rpc.*, db.*, error.type, service.*) the conventions are
// used.

export const ATTR = {
  /** Who called, as it is stored with what was asked. */
  actor: "storagenode.actor",
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
  /** Number of unanswered SPDK requests when this one was made. */
  queued: "storagenode.spdk.queued",
  /** Whether the response lists all objects of a kind. */
  dump: "storagenode.spdk.dump",
} as const;
