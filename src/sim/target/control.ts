// The control socket of a simulated target, for tests: one JSON object per line in, one line out.
// It counts requests, stops the target at one, drops and delays answers, connects hosts, reads and
// writes lvols. See docs/simulator.md.
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { saveConfig } from "./config-file.ts";
import { ControlHosts } from "./control-hosts.ts";
import { abortOnAddNamespace, read, write } from "./control-lvols.ts";
import { order, type Order, type OrderOf } from "./control-orders.ts";
import type { Engine } from "./engine.ts";
import type { Rule } from "./gate.ts";
import type { Disk } from "./media.ts";
import { TargetAbort } from "./operation.ts";
import { removeStaleSocket } from "./stale-socket.ts";
import type { Target } from "./target.ts";

export type ControlOptions = {
  readonly path: string;
  readonly engine: Engine;
  readonly resume: () => void;
  /** Called when a control request crashed the target. */
  readonly onFatal: (error: unknown) => void;
};

export class ControlServer {
  readonly #options: ControlOptions;
  readonly #server: Server;
  readonly #clients = new Set<Socket>();
  readonly #hosts: ControlHosts;

  constructor(options: ControlOptions) {
    this.#options = options;
    this.#hosts = new ControlHosts(options.engine, options.onFatal);
    options.engine.gate.onStopped = (method) => this.#tell({ stopped: method });
    this.#server = createServer((socket) => {
      this.#clients.add(socket);
      let unread = "";
      // Answers go out in the order of the orders.
      let last: Promise<void> = Promise.resolve();
      socket.setEncoding("utf8");
      socket.on("data", (chunk: string) => {
        const lines = (unread + chunk).split("\n");
        unread = lines.pop() ?? "";
        for (const line of lines) {
          last = last.then(async () => {
            socket.write(`${JSON.stringify(await this.#obey(line))}\n`);
          });
        }
      });
      socket.on("error", () => {});
      socket.on("close", () => this.#clients.delete(socket));
    });
  }

  async listen(): Promise<void> {
    removeStaleSocket(this.#options.path);
    this.#server.listen(this.#options.path);
    await once(this.#server, "listening");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#hosts[Symbol.dispose]();
    for (const client of this.#clients) client.destroy();
    if (!this.#server.listening) return;
    this.#server.close();
    await once(this.#server, "close");
  }

  #tell(event: object): void {
    for (const client of this.#clients) client.write(`${JSON.stringify(event)}\n`);
  }

  async #obey(line: string): Promise<object> {
    try {
      return await this.#carryOut(order.parse(JSON.parse(line)));
    } catch (error) {
      if (error instanceof TargetAbort) this.#options.onFatal(error);
      return { error: error instanceof Error ? error.message : String(error) };
    }
  }

  #carryOut(asked: Order): object | Promise<object> {
    const { engine, resume } = this.#options;
    const { gate, target } = engine;
    const hosts = this.#hosts;
    switch (asked.op) {
      case "count":
        return { counts: gate.counts };
      case "warnings":
        return { discovery: target.discoveryWarnings };
      case "discovery_log":
        return hosts.discoveryLog(asked);
      case "connect_host":
        return hosts.connect(asked);
      case "disconnect_host":
        return hosts.disconnect(asked);
      case "start_host":
        return hosts.start(asked);
      case "stop_host":
        return hosts.stop(asked);
      case "reopen_host":
        return hosts.reopen(asked);
      case "host_state":
        return hosts.state(asked);
      case "host_io":
        return hosts.io(asked);
      case "write":
        return write(engine, asked);
      case "read":
        return read(engine, asked);
      case "abort_on_add_ns":
        return abortOnAddNamespace(engine, asked);
      case "late_disk":
        return lateDisk(engine, asked);
      case "health":
        return setHealth(engine, asked);
      case "reset_counts":
        gate.resetCounts();
        break;
      case "stop":
        gate.stopAt(asked);
        break;
      case "continue":
        resume();
        break;
      case "clear_rules":
        gate.clear();
        break;
      case "drop":
      case "delay":
      case "slow":
      case "fail":
        gate.addRule(ruleOf(asked));
        break;
      case "save_config":
        saveConfig(target, asked.file);
        break;
      case "kill":
        process.kill(process.pid, "SIGKILL");
        break;
    }
    return { done: true };
  }
}

function ruleOf(asked: OrderOf<"drop" | "delay" | "slow" | "fail">): Rule {
  const { method, with: mentioned, nth, always } = asked;
  const which = { method, with: mentioned, nth, always };
  switch (asked.op) {
    case "drop":
      return { effect: "drop", ...which };
    case "delay":
    case "slow":
      return { effect: asked.op, ...which, polls: asked.polls, ms: asked.ms };
    case "fail": {
      const { code, message, half } = asked;
      return { effect: "fail", ...which, failure: { code, message, half } };
    }
  }
}

/** Kept with the disk, as a drive does. */
function setHealth({ target }: Engine, asked: OrderOf<"health">): object {
  for (const disk of disksNamed(target, asked.serial)) disk.setDrive(asked);
  target.flush();
  return { done: true };
}

function disksNamed({ disks: all }: Target, serial: string | undefined): readonly Disk[] {
  const disks = all.filter(({ facts }) => serial === undefined || facts.serial === serial);
  if (disks.length === 0) throw new Error(`no disk ${serial ?? ""}`);
  return disks;
}

/** Kept with the disk: it is late after a restart, too. */
function lateDisk({ target }: Engine, asked: OrderOf<"late_disk">): object {
  const { serial, attach_ms: attachMs, load_ms: loadMs } = asked;
  for (const disk of disksNamed(target, serial)) disk.setLate({ attachMs, loadMs });
  target.flush();
  return { done: true };
}
