// Which user PostgreSQL runs as, and which user may connect to it. PostgreSQL refuses to run as
// root, so root lends it an unprivileged account; everybody else runs it as themselves.
import { readFileSync, statSync } from "node:fs";
import { PostgresUnsupported } from "./postgres-runtime.ts";

export type Account = { readonly name: string; readonly uid: number; readonly gid: number };

export type PostgresAccounts = {
  /** Set where the server needs another user than this process: to chown to and spawn with. */
  readonly server: Account | undefined;
  /** The system user who connects: the one this process runs as. */
  readonly client: Account;
};

/** Accounts that root may lend, best first. nobody exists on every system. */
const LENDABLE = ["postgres", "nobody"];

/**
 * As root, the owner of dataDir if it exists already (an account that appears later must not make
 * the data unreadable), else `postgres`, else `nobody`. Throws PostgresUnsupported without a fitting
 * line in /etc/passwd, which initdb and peer authentication need.
 */
export function postgresAccounts(dataDir: string, passwd = "/etc/passwd"): PostgresAccounts {
  const accounts = readAccounts(passwd);
  const uid = process.getuid?.() ?? 0;
  const client = accounts.find((account) => account.uid === uid);
  if (client === undefined) {
    throw new PostgresUnsupported(`user ${uid} has no line in ${passwd}, which initdb needs`);
  }
  if (uid !== 0) return { server: undefined, client };
  const owner = statSync(dataDir, { throwIfNoEntry: false })?.uid;
  const wanted =
    owner === undefined || owner === 0
      ? LENDABLE.map((name) => accounts.find((account) => account.name === name))
      : [accounts.find((account) => account.uid === owner)];
  const server = wanted.find((account) => account !== undefined && account.uid !== 0);
  if (server === undefined) {
    const who = owner === undefined ? `user ${LENDABLE.join(" or ")}` : `user ${owner}`;
    throw new PostgresUnsupported(`it refuses to run as root, and ${who} is not in ${passwd}`);
  }
  return { server, client };
}

function readAccounts(passwd: string): Account[] {
  return readFileSync(passwd, "utf8")
    .split("\n")
    .flatMap((line) => {
      const [name, , uid, gid] = line.split(":");
      if (name === undefined || uid === undefined || gid === undefined) return [];
      return [{ name, uid: Number(uid), gid: Number(gid) }];
    });
}
