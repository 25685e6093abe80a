// grpc.health.v1: "" is alive while the process answers, the service is SERVING when the agent is
// ready. A watcher is told each turn.
import type { HealthServer } from "../gen/grpc/health/v1/health.ts";
import { HealthCheckResponse_ServingStatus as Serving } from "../gen/grpc/health/v1/health.ts";
import { Refusal } from "../model/errors.ts";
import type { OpenCalls } from "./call.ts";

export const SERVICE = "storagenode.v1.StorageNode";

type State = (typeof Serving)["SERVING" | "NOT_SERVING" | "SERVICE_UNKNOWN"];

export class Health {
  readonly #wakes = new Set<() => void>();
  #ready = false;

  setReady(ready: boolean): void {
    this.#ready = ready;
    for (const wake of this.#wakes) wake();
  }

  handlers(desk: OpenCalls): HealthServer {
    return {
      check: desk.unary("grpc.health.v1.Health/Check", async ({ service }) => {
        const status = this.#stateOf(service);
        if (status !== Serving.SERVICE_UNKNOWN) return { status };
        throw new Refusal("NOT_FOUND", `there is no service "${service}"`);
      }),
      watch: desk.stream("grpc.health.v1.Health/Watch", ({ service }, { signal }) =>
        this.#watch(service, signal),
      ),
    };
  }

  async *#watch(service: string, signal: AbortSignal): AsyncGenerator<{ status: State }> {
    let told: State | undefined;
    while (!signal.aborted) {
      const status = this.#stateOf(service);
      if (status === told) {
        await this.#turn(signal);
        continue;
      }
      told = status;
      yield { status };
    }
  }

  #turn(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        this.#wakes.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#wakes.add(wake);
      signal.addEventListener("abort", wake, { once: true });
    });
  }

  #stateOf(service: string): State {
    if (service === "") return Serving.SERVING;
    if (service !== SERVICE) return Serving.SERVICE_UNKNOWN;
    return this.#ready ? Serving.SERVING : Serving.NOT_SERVING;
  }
}
