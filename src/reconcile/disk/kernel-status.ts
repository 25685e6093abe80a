// Whether the NVMe disks of the kernel can be listed, and since when that is so.

export class KernelStatus {
  #value = { ok: false, reason: "not listed yet", since: new Date() };

  get value(): { readonly ok: boolean; readonly reason: string; readonly since: Date } {
    return this.#value;
  }

  set(ok: boolean, reason: string): void {
    if (ok === this.#value.ok && reason === this.#value.reason) return;
    this.#value = { ok, reason, since: new Date() };
  }
}
