// grpc.health.v1: the empty service name is SERVING while the process answers (liveness), the
// service StorageNode is SERVING while the agent is ready (readiness). Watch streams every change.
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

  handlers(calls: OpenCalls): HealthServer {
    return {
      check: calls.unary("grpc.health.v1.Health/Check", async ({ service }) => {
        const status = this.#stateOf(service);
        if (status !== Serving.SERVICE_UNKNOWN) return { status };
        throw new Refusal("NOT_FOUND", `unknown service "${service}"`);
      }),
      watch: calls.stream("grpc.health.v1.Health/Watch", "buffered", ({ service }, { signal }) =>
        this.#watch(service, signal),
      ),
    };
  }

  async *#watch(service: string, signal: AbortSignal): AsyncGenerator<{ status: State }> {
    let sent: State | undefined;
    while (!signal.aborted) {
      const status = this.#stateOf(service);
      if (status === sent) {
        await this.#readinessSet(signal);
        continue;
      }
      sent = status;
      yield { status };
    }
  }

  /** Resolves at the next setReady or when the signal aborts. */
  #readinessSet(signal: AbortSignal): Promise<void> {
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
