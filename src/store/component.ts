// A component of GetHealth: whether it is ok, why not, and since when.
export type StoreStatus = { readonly ok: boolean; readonly reason: string; readonly since: Date };

export class Component {
  #status: StoreStatus;

  constructor(reason: string) {
    this.#status = { ok: false, reason, since: new Date() };
  }

  get status(): StoreStatus {
    return this.#status;
  }

  set(ok: boolean, reason: string): void {
    const { status } = this;
    if (ok === status.ok && reason === status.reason) return;
    this.#status = { ok, reason, since: ok === status.ok ? status.since : new Date() };
  }
}
