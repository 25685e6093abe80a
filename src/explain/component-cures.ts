// What an operator does about a component of the node that is not ok.

export const COMPONENTS = [
  "database",
  "writes",
  "lease",
  "target",
  "hold",
  "state-dir",
  "verify",
  "kernel",
  "copy",
  "restore",
  "load",
  "suspects",
  "outcomes",
  "access",
] as const;

export type ComponentName = (typeof COMPONENTS)[number];

/** reason: of the component, which is not ok. */
export function componentCure(name: ComponentName, reason: string): string {
  switch (name) {
    case "database":
      return databaseCure(reason);
    case "writes":
      return writesCure(reason);
    case "lease":
      return leaseCure(reason);
    case "target":
      return targetCureOf(reason);
    case "hold":
      return (
        `restore the newer database, or run "storage-node rebuild" to see which rows the disks ` +
        `contain, and "storage-node rebuild --apply" to write them and end the hold`
      );
    case "state-dir":
      return stateDirCure(reason);
    case "verify":
      return reason.includes("not read")
        ? "see the other components: it begins once the rows were read"
        : "wait: the agent reads every disk and volume once after its start";
    case "kernel":
      return "see the agent's log; it needs to read /sys and /proc, and as root the devices of NVMe disks";
    case "copy":
      return "see docs/troubleshooting.md, the local copy; nothing but a start without the database needs it";
    case "restore":
      return `wait: exports come back by themselves; "storage-node explain volume ID" says what one waits for`;
    case "load":
      return "wait: the target works on it";
    case "suspects":
      return "see the target's log and core file; Delete the object if each try kills the target";
    case "access":
      return "see docs/security.md: correct the file that is named, or set up TLS";
    case "outcomes":
      return "see the target's log; ResolveOutcome, if you know that the target does not work on it any more";
  }
}

function leaseCure(reason: string): string {
  const [, , cause = ""] = /^not (taken|renewed in time): (.*)$/s.exec(reason) ?? [];
  if (/^row .* of table /.test(cause)) return writesCure(cause);
  if (/ (read|written): /.test(cause)) return stateDirCure(cause);
  if (/^(the (database|schema) |no answer since )/.test(cause)) return databaseCure(cause);
  return /^not (taken|renewed)/.test(reason)
    ? "see the other components: the agent takes the lease by itself"
    : "ask the agent that has the lease, or stop it: this agent then takes the lease by itself";
}

function stateDirCure(reason: string): string {
  if (reason.includes("is damaged")) {
    return (
      "if the database is surely the newest one, remove that file: the agent goes on by itself; if it " +
      "may be older, restore the file, as it is what tells"
    );
  }
  return (
    "make room in STORAGE_NODE_STATE_DIR, or correct its owner and mode; the agent tries again " +
    "with each renewal of its lease"
  );
}

function databaseCure(reason: string): string {
  if (reason === "no connection yet") return "wait: the first attempt is under way";
  if (reason.includes("storage-node migrate")) return `run "storage-node migrate"`;
  return (
    `start PostgreSQL or its network again, the agent reconnects by itself; if it moved, correct ` +
    `DATABASE_URL and restart the agent`
  );
}

function writesCure(reason: string): string {
  if (reason.includes("cannot be read")) {
    return "correct the row, as somebody has written it by hand, and raise the revision of its node";
  }
  if (/timeout|deadlock/.test(reason)) {
    return "end the session that holds the lock: select pid, pg_blocking_pids(pid), query from pg_stat_activity";
  }
  if (reason.includes("on hold")) return "end the hold: nothing is committed before";
  if (reason.includes("not tried")) return "wait for the lease: a rehearsal follows it";
  if (/cannot be reached|no answer/.test(reason)) return databaseCure("");
  return (
    "undo what was changed in the schema or in the rights of the agent's role: it must be as " +
    `"storage-node migrate" has made it`
  );
}

/** Of a target that takes requests and answers none. */
export const SILENT_TARGET_CURE =
  "see whether it hangs or is stopped (its log, top): once it answers or is restarted, the agent " +
  "continues by itself";

function targetCureOf(reason: string): string {
  if (reason.includes("has answered none")) return SILENT_TARGET_CURE;
  if (reason.includes("it ended while it was identified")) {
    return (
      "see the target's log and core file, and whether it is SPDK 24.01 or newer; it is asked again " +
      "ever more rarely, and all comes back once it lives"
    );
  }
  if (reason.includes("belongs to")) {
    return "give this node a target of its own (STORAGE_NODE_SPDK_SOCKET) and restart the agent";
  }
  if (reason.includes("transport")) {
    return (
      "give the machine the device and the target its driver, or correct STORAGE_NODE_EXPORT_TRTYPE " +
      "and restart the agent"
    );
  }
  if (reason.includes("waiting for the database")) return databaseCure("");
  if (/being identified|next try at/.test(reason)) {
    return "wait if it was just started; else see the agent's log, and whether it is SPDK 24.01 or newer";
  }
  return (
    "start the target: disks and exports then come back by themselves; if it listens elsewhere, " +
    "correct STORAGE_NODE_SPDK_SOCKET and restart the agent"
  );
}
