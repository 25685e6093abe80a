// The second socket of a simulated target, for tests: one JSON object a line in, one line out. It can
// count requests, stop the target at one, drop and delay answers, connect hosts, read and write volumes.
// See docs/simulator.md.
import { once } from "node:events";
import { rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { z } from "zod";
import type { Engine } from "./engine.ts";
import { readLvol, refuseGrownClone, writeLvol } from "./clusters.ts";
import { TargetAbort } from "./operation.ts";
import type { LvolBdev, Target } from "./target.ts";

const MAX_READ_BYTES = 1_048_576;

const order = z.discriminatedUnion("op", [
  z.object({ op: z.literal("count") }),
  z.object({ op: z.literal("reset_counts") }),
  z.object({
    op: z.literal("stop"),
    when: z.enum(["before", "midway", "after"]),
    method: z.string().optional(),
    nth: z.int().positive().default(1),
  }),
  z.object({ op: z.literal("continue") }),
  z.object({
    op: z.literal("drop"),
    method: z.string().optional(),
    nth: z.int().positive().default(1),
  }),
  z.object({
    op: z.enum(["delay", "slow"]),
    method: z.string().optional(),
    nth: z.int().positive().default(1),
    polls: z.int().positive(),
  }),
  z.object({ op: z.literal("connect_host"), nqn: z.string(), host: z.string() }),
  z.object({ op: z.literal("disconnect_host"), nqn: z.string(), host: z.string() }),
  z.object({
    op: z.literal("write"),
    lvol: z.string(),
    offset: z.int().nonnegative(),
    hex: z.hex(),
    times: z.int().positive().default(1),
  }),
  z.object({
    op: z.literal("read"),
    lvol: z.string(),
    offset: z.int().nonnegative(),
    bytes: z.int().positive().max(MAX_READ_BYTES),
  }),
  z.object({ op: z.literal("kill") }),
]);

export type ControlOptions = {
  readonly path: string;
  readonly engine: Engine;
  readonly target: Target;
  readonly resume: () => void;
  /** What was asked took the target down. */
  readonly onFatal: (error: unknown) => void;
};

export class ControlServer {
  readonly #options: ControlOptions;
  readonly #server: Server;
  readonly #clients = new Set<Socket>();

  constructor(options: ControlOptions) {
    this.#options = options;
    options.engine.gate.onStopped = (method) => this.#tell({ stopped: method });
    this.#server = createServer((socket) => {
      this.#clients.add(socket);
      let unread = "";
      socket.setEncoding("utf8");
      socket.on("data", (chunk: string) => {
        const lines = (unread + chunk).split("\n");
        unread = lines.pop() ?? "";
        for (const line of lines) socket.write(`${JSON.stringify(this.#obey(line))}\n`);
      });
      socket.on("error", () => {});
      socket.on("close", () => this.#clients.delete(socket));
    });
  }

  async listen(): Promise<void> {
    rmSync(this.#options.path, { force: true });
    this.#server.listen(this.#options.path);
    await once(this.#server, "listening");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.destroy();
    if (!this.#server.listening) return;
    this.#server.close();
    await once(this.#server, "close");
  }

  #tell(event: object): void {
    for (const client of this.#clients) client.write(`${JSON.stringify(event)}\n`);
  }

  #obey(line: string): object {
    try {
      return this.#carryOut(order.parse(JSON.parse(line)));
    } catch (error) {
      if (error instanceof TargetAbort) this.#options.onFatal(error);
      return { error: error instanceof Error ? error.message : String(error) };
    }
  }

  #carryOut(asked: z.output<typeof order>): object {
    const { engine, target, resume } = this.#options;
    const { gate } = engine;
    switch (asked.op) {
      case "count":
        return { counts: gate.counts };
      case "reset_counts":
        gate.resetCounts();
        return { done: true };
      case "stop":
        gate.stopAt(asked);
        return { done: true };
      case "continue":
        resume();
        return { done: true };
      case "drop":
        gate.addRule({ effect: "drop", method: asked.method, nth: asked.nth });
        return { done: true };
      case "delay":
      case "slow":
        gate.addRule({
          effect: asked.op,
          method: asked.method,
          nth: asked.nth,
          polls: asked.polls,
        });
        return { done: true };
      case "connect_host":
        return connectHost(target, asked);
      case "disconnect_host":
        return disconnectHost(target, asked);
      case "write":
        return write(engine, target, asked);
      case "read":
        return read(target, asked);
      case "kill":
        process.kill(process.pid, "SIGKILL");
        return { done: true };
    }
  }
}

type Place = { readonly lvol: string; readonly offset: number };
type Write = Place & { readonly hex: string; readonly times: number };
type Read = Place & { readonly bytes: number };

/** As a host would through an export, whoever may connect; the answer comes when it is on the disk. */
function write(
  { release }: Engine,
  target: Target,
  { lvol: name, offset, hex, times }: Write,
): object {
  const bytes = Buffer.from(hex.repeat(times), "hex");
  const lvol = lvolWith(target, name, offset + bytes.length);
  if (lvol.blob.readOnly || lvol.blob.snapshot) return { error: `${name} is read-only` };
  const clusters = Math.ceil((offset + bytes.length) / lvol.store.store.clusterBytes);
  refuseGrownClone({ release, method: "a write" }, lvol, clusters);
  writeLvol(lvol, offset, bytes);
  target.flush();
  return { done: true };
}

function read(target: Target, { lvol: name, offset, bytes }: Read): object {
  const lvol = lvolWith(target, name, offset + bytes);
  return { hex: readLvol(lvol, offset, bytes).toString("hex") };
}

function lvolWith(target: Target, name: string, end: number): LvolBdev {
  const lvol = target.lvol(name);
  if (lvol === undefined) throw new Error(`no lvol ${name}`);
  const size = lvol.numBlocks * lvol.store.base.disk.facts.blockSize;
  if (end > size) throw new Error(`${name} has ${size} bytes`);
  return lvol;
}

type Host = { readonly nqn: string; readonly host: string };

function connectHost(target: Target, { nqn, host }: Host): object {
  const subsystem = target.subsystems.get(nqn);
  if (subsystem === undefined) return { error: `no subsystem ${nqn}` };
  if (!subsystem.allowAnyHost && !subsystem.hosts.includes(host)) {
    return { error: `${host} is not allowed` };
  }
  if (subsystem.listeners.length === 0) return { error: `${nqn} has no listener` };
  const cntlid = target.nextCntlid();
  subsystem.controllers.push({ cntlid, hostNqn: host });
  target.hostConnections += 1;
  return { cntlid };
}

function disconnectHost(target: Target, { nqn, host }: Host): object {
  const controllers = target.subsystems.get(nqn)?.controllers ?? [];
  const at = controllers.findIndex(({ hostNqn }) => hostNqn === host);
  if (at < 0) return { error: `${host} is not connected to ${nqn}` };
  controllers.splice(at, 1);
  return { done: true };
}
