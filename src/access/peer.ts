// One connection over TLS: who is at its other end, as the files say at the moment.
import type { TLSSocket } from "node:tls";
import type { Caller } from "../model/caller.ts";
import { Refusal } from "../model/errors.ts";
import type { Access, Shown } from "./access.ts";
import { namesOf, shownNames } from "./certificate.ts";

/** Something that the peer has asked for and that is not answered yet. */
export type OpenCall = {
  /** Ends it if the peer may not ask for it any more. */
  readonly recheck: () => void;
};

export class Peer {
  readonly calls = new Set<OpenCall>();
  readonly socket: TLSSocket;
  /** ADDRESS:PORT */
  readonly address: string;
  readonly #access: Access;
  readonly #shown: Shown;
  #known: { readonly version: number; readonly caller: Caller } | undefined;

  /** cas: those with which the handshake was begun. */
  constructor(socket: TLSSocket, access: Access, cas: Shown["cas"]) {
    this.socket = socket;
    this.address = `${socket.remoteAddress}:${socket.remotePort}`;
    this.#access = access;
    const certificate = socket.getPeerX509Certificate();
    const fault = socket.authorized ? undefined : codeOf(socket.authorizationError);
    this.#shown = { certificate, fault, cas };
  }

  /** Throws a Refusal if it is not known who calls, or must not be taken for that any more. */
  caller(): Caller {
    const { certificate } = this.#shown;
    const { version } = this.#access;
    const expired = certificate !== undefined && new Date() > certificate.validToDate;
    if (this.#known?.version === version && !expired) return this.#known.caller;
    const caller = this.#access.callerOf(this.#shown);
    this.#known = { version, caller };
    return caller;
  }

  /** It was known who calls, and the certificate does not prove it any more. */
  get isOutdated(): boolean {
    if (this.#known === undefined) return false;
    try {
      this.caller();
      return false;
    } catch (error) {
      if (error instanceof Refusal) return error.reason === "CERTIFICATE_INVALID";
      throw error;
    }
  }

  /** For logs: the caller, or what is at the other end without being one. */
  get name(): string {
    const { certificate } = this.#shown;
    try {
      return this.caller().name;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      const names = certificate === undefined ? [] : namesOf(certificate);
      return names.length === 0 ? `tls:${this.address}` : `unverified ${shownNames(names)}`;
    }
  }

  /** Whose connections are counted together. */
  get client(): string {
    try {
      return this.caller().name;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return "";
    }
  }
}

function codeOf(error: unknown): string {
  if (typeof error === "string") return error;
  return error instanceof Error && "code" in error ? String(error.code) : "NOT_AUTHORIZED";
}
