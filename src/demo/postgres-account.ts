// Chooses the user that PostgreSQL runs as and the user that may connect. PostgreSQL refuses to run
// as root, so for root it runs as an unprivileged account; other users run it as themselves.
import { readFileSync, statSync } from "node:fs";
import { PostgresUnsupported } from "./postgres-runtime.ts";

export type Account = { readonly name: string; readonly uid: number; readonly gid: number };

export type PostgresAccounts = {
  /** User to chown to and spawn as; undefined if the server runs as the user of this process. */
  readonly server: Account | undefined;
  /** The system user that may connect: that of this process. */
  readonly client: Account;
};

/** Accounts for the server when this process is root, in order of preference. */
const UNPRIVILEGED = ["postgres", "nobody"];

/**
 * For root the server's account is the owner of dataDir if that exists (so that the data stays
 * readable when an account is added later), else `postgres`, else `nobody`. Throws
 * PostgresUnsupported if an account has no line in /etc/passwd, which initdb and peer
 * authentication need.
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
      ? UNPRIVILEGED.map((name) => accounts.find((account) => account.name === name))
      : [accounts.find((account) => account.uid === owner)];
  const server = wanted.find((account) => account !== undefined && account.uid !== 0);
  if (server === undefined) {
    const who = owner === undefined ? `user ${UNPRIVILEGED.join(" or ")}` : `user ${owner}`;
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
