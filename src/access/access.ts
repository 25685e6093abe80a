// Who may call over the network: the files of TLS and of the clients, looked at again and again, and what
// they make of a certificate.
import type { X509Certificate } from "node:crypto";
import type { Logger } from "pino";
import { CERTIFICATE_LATE_PERCENT } from "../limits.ts";
import type { Caller } from "../model/caller.ts";
import { Refusal } from "../model/errors.ts";
import { isStillTrusted, namesOf, shownNames } from "./certificate.ts";
import { nameKey, parseClients, type Client, type Clients } from "./clients-file.ts";
import { FileFault, Reloaded } from "./reloaded.ts";
import { parseTls, type TlsFiles, type TlsPaths } from "./tls-files.ts";

export type AccessPaths = TlsPaths & { readonly clients: string };

/** What a client has shown in its handshake. */
export type Shown = {
  readonly certificate: X509Certificate | undefined;
  /** OpenSSL's code, such as CERT_HAS_EXPIRED; undefined: it was accepted. */
  readonly fault: string | undefined;
  /** The CAs of that moment. */
  readonly cas: readonly X509Certificate[];
};

export type AccessStatus = { readonly ok: boolean; readonly reason: string; readonly since: Date };

const STARTED = new Date();

export class Access implements Disposable {
  readonly #tls: Reloaded<TlsFiles>;
  readonly #clients: Reloaded<Clients>;
  readonly #log: Logger;
  readonly #listeners = new Set<() => void>();
  readonly #timer: NodeJS.Timeout;
  #version = 0;

  /** Throws FileFault. */
  constructor(
    paths: AccessPaths,
    { log, lookMs }: { readonly log: Logger; readonly lookMs: number },
  ) {
    this.#log = log;
    this.#tls = tlsFiles(paths);
    this.#clients = clientsFile(paths);
    this.#timer = setInterval(() => this.#look(), lookMs);
    this.#timer.unref();
  }

  get tls(): TlsFiles {
    return this.#tls.value;
  }

  /** Another one: what `callerOf` answered does not count any more. */
  get version(): number {
    return this.#version;
  }

  /** Told after each look, changed or not: certificates expire by themselves. */
  onLook(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Throws a Refusal. */
  callerOf(shown: Shown): Caller {
    const certificate = this.#valid(shown);
    const names = namesOf(certificate);
    const known = names.flatMap((name) => {
      const client = this.#clients.value.get(nameKey(name));
      return client === undefined ? [] : [{ name, client }];
    });
    const [first] = known;
    if (first === undefined) {
      const listed = shownNames(names);
      const has = names.length === 0 ? "no name of kind URI or DNS" : listed;
      throw new Refusal(
        "UNKNOWN_CLIENT",
        `the certificate has ${has}, and STORAGE_NODE_CLIENTS has none of that`,
        { metadata: { names: listed } },
      );
    }
    return callerWith(
      first.name,
      known.map(({ client }) => client),
    );
  }

  #valid({ certificate, fault, cas }: Shown): X509Certificate {
    if (certificate === undefined) {
      throw new Refusal("NO_CERTIFICATE", "this call needs a client certificate");
    }
    const now = new Date();
    const { validFromDate, validToDate } = certificate;
    if (now > validToDate) {
      throw invalid("CERT_HAS_EXPIRED", `expired at ${validToDate.toISOString()}`);
    }
    if (now < validFromDate) {
      throw invalid("CERT_NOT_YET_VALID", `is valid from ${validFromDate.toISOString()}`);
    }
    if (fault !== undefined) throw invalid(fault, `was not accepted (${fault})`);
    if (!isStillTrusted(certificate, { before: cas, now: this.tls.cas })) {
      throw invalid("CA_REMOVED", "was accepted by CAs of which one is gone: connect again");
    }
    return certificate;
  }

  /** The files that are not used, and a certificate that has or will soon have expired. */
  get status(): AccessStatus {
    const { validFromDate: from, validToDate: to } = this.tls.certificate;
    const lateMs = ((to.getTime() - from.getTime()) * CERTIFICATE_LATE_PERCENT) / 100;
    const late = new Date(to.getTime() - lateMs);
    const faults = [this.#tls.fault, this.#clients.fault].filter((fault) => fault !== undefined);
    const reasons = faults.map(({ reason }) => `${reason}; what was read before stays in force`);
    const now = new Date();
    if (now > late) {
      const verb = now > to ? "expired" : "expires";
      reasons.push(`the certificate of this node ${verb} at ${to.toISOString()}: replace it`);
    }
    const since = faults.map((fault) => fault.since).toSorted((a, b) => +a - +b)[0];
    const ok = reasons.length === 0;
    return { ok, reason: reasons.join("; "), since: since ?? (ok ? STARTED : late) };
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const tls = this.#tls.look();
    const clients = this.#clients.look();
    if (tls) this.#tell("certificates", this.#tls.fault);
    if (clients) this.#tell("clients", this.#clients.fault);
    if (tls || clients) this.#version += 1;
    for (const listener of this.#listeners) listener();
  }

  #tell(files: "certificates" | "clients", fault: { readonly reason: string } | undefined): void {
    if (fault === undefined) {
      this.#log.info({ files, expires: this.tls.certificate.validToDate }, "access files reloaded");
    } else {
      const { reason } = fault;
      this.#log.error({ files, reason }, "access files not reloaded: those before stay in force");
    }
  }
}

/** What is wrong with the files, as of now; empty: an agent can start with them. */
export function accessFaults(paths: AccessPaths): readonly string[] {
  return [tlsFiles, clientsFile].flatMap((read) => {
    try {
      read(paths);
      return [];
    } catch (error) {
      if (error instanceof FileFault) return [error.message];
      throw error;
    }
  });
}

function tlsFiles(paths: AccessPaths): Reloaded<TlsFiles> {
  return new Reloaded([paths.cert, paths.key, paths.ca], (all) => parseTls(paths, all));
}

function clientsFile({ clients }: AccessPaths): Reloaded<Clients> {
  return new Reloaded([clients], ([content = Buffer.alloc(0)]) => parseClients(clients, content));
}

/** A certificate with several names that are known may do what any of them may. */
function callerWith(name: string, clients: readonly Client[]): Caller {
  const roles = [...new Set(clients.flatMap((client) => client.roles))];
  // Whoever may also read as another role reads every export.
  const readsAll = roles.some((role) => role !== "compute" && role !== "monitor");
  const hostNqns = readsAll ? undefined : clients.flatMap((client) => client.hostNqns);
  return { name, roles, hostNqns };
}

function invalid(code: string, what: string): Refusal {
  return new Refusal("CERTIFICATE_INVALID", `the client certificate ${what}`, {
    metadata: { error: code },
  });
}
