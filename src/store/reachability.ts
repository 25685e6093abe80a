// Whether the writer's last transaction reached the database, and who is told when that changes.
import type { Logger } from "pino";

export class Reachability {
  readonly #log: Logger;
  #connected = false;
  #onChange: (connected: boolean) => void = () => {};
  #onUnreachable: () => void = () => {};

  constructor(log: Logger) {
    this.#log = log;
  }

  get connected(): boolean {
    return this.#connected;
  }

  onChange(listener: (connected: boolean) => void): void {
    this.#onChange = listener;
  }

  /** Calls listener after each transaction that could not reach the database. */
  onUnreachable(listener: () => void): void {
    this.#onUnreachable = listener;
  }

  reached(): void {
    this.#set(true);
  }

  unreachable(): void {
    this.#set(false);
    this.#onUnreachable();
  }

  #set(connected: boolean): void {
    if (connected === this.#connected) return;
    this.#connected = connected;
    this.#log.info({ connected }, connected ? "database connected" : "database disconnected");
    this.#onChange(connected);
  }
}
