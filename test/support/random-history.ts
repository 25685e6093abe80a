// Random histories of a node: calls of clients, hosts that use the volumes, and faults. A history is a list of actions; the
// expected final state is derived from the calls and their answers only.
import { status } from "@grpc/grpc-js";
import fc from "fast-check";
import { isDeepStrictEqual } from "node:util";
import { uuidV5 } from "../../src/model/identity.ts";
import { spdkClient } from "../../src/spdk/client.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import { SpdkError, SpdkNotSent, SpdkUnknownOutcome } from "../../src/spdk/errors.ts";
import { call, refusal, until, type TestAgent } from "./agent.ts";
import {
  crashScenario,
  exactly,
  onTarget,
  readBack,
  settled,
  tag,
  type CrashScenario,
} from "./crash-scenario.ts";
import { CounterReader } from "./counter-reader.ts";
import { BusyHost } from "./busy-host.ts";
import { Family, familyCalls, isFamilyCall } from "./random-family.ts";
import { getLvol, HOST, lvolSpec, stateOf, zeroFreeSpace } from "./volumes.ts";

const SLOTS = 5;
export const HOSTS = [HOST, `${HOST.slice(0, -1)}2`, `${HOST.slice(0, -1)}3`] as const;
const SIZE = 64n * 1024n * 1024n;
const NAMESPACE = "7b1d8a4e-2f5c-4e0a-8a51-1c6d9e7f3b20";
/** Long enough that a busy agent on a slow machine keeps its lease. */
const LEASE_MS = 1_500;
const GRACE_MS = 500;
const SETTLE_MS = 5_000;

/** Plain objects, so that a printed history can be pasted into a test. */
const record = <T>(of: { [K in keyof T]: fc.Arbitrary<T[K]> }) =>
  fc.record(of, { noNullPrototype: true });
const constant = <const T>(value: T) => fc.constant(value);

const slot = fc.nat({ max: SLOTS - 1 });
const host = fc.constantFrom(...HOSTS);
const nth = fc.integer({ min: 1, max: 12 });
const wait = fc.boolean();
/** How many times as large as it was made. */
const sizes = fc.integer({ min: 1, max: 3 });
const rwIops = fc.constantFrom(0, 2_000, 5_000);
const when = fc.constantFrom("before" as const, "after" as const);

const mutation = fc.oneof(
  { weight: 5, arbitrary: record({ do: constant("provision"), slot, wait }) },
  { weight: 1, arbitrary: record({ do: constant("adopt"), slot, wait }) },
  { weight: 3, arbitrary: record({ do: constant("delete"), slot, wait }) },
  { weight: 2, arbitrary: record({ do: constant("allow"), slot, host, wait }) },
  { weight: 2, arbitrary: record({ do: constant("revoke"), slot, host, wait }) },
  { weight: 2, arbitrary: record({ do: constant("resize"), slot, sizes, wait }) },
  { weight: 1, arbitrary: record({ do: constant("limit"), slot, rwIops, wait }) },
);
const fault = fc.oneof(
  record({
    do: constant("kill"),
    victim: fc.constantFrom("agent", "target", "both"),
    when,
    nth,
  }),
  record({
    do: fc.constantFrom("slow", "delay"),
    nth,
    polls: fc.integer({ min: 1, max: 10 }),
  }),
  record({ do: constant("lose connection") }),
  record({ do: constant("cut database") }),
  record({ do: constant("take over") }),
  record({ do: constant("let go on") }),
  record({ do: constant("zero free space") }),
  record({ do: constant("read counters") }),
  record({ do: fc.constantFrom("cordon", "uncordon") }),
);
const action = fc.oneof(
  { weight: 3, arbitrary: mutation },
  { weight: 1, arbitrary: familyCalls(slot) },
  { weight: 1, arbitrary: fault },
  { weight: 1, arbitrary: record({ do: constant("await answers") }) },
);

export const histories = fc.array(action, { minLength: 3, maxLength: 16, size: "max" });

type Mutation = typeof mutation extends fc.Arbitrary<infer T> ? T : never;
type Fault = typeof fault extends fc.Arbitrary<infer T> ? T : never;
export type Action = typeof action extends fc.Arbitrary<infer T> ? T : never;

/** The calls made for one volume, and the definite answers to them. */
class Volume {
  readonly id: string;
  provisioned = false;
  /** It was made from an lvol that somebody else has made. */
  adopted = false;
  deleted = false;
  /** Set once the volume was UP: a later answer with another lvol means lost data. */
  lvolUuid: string | undefined;
  nqn = "";
  /** A host has written into it. */
  written = false;
  readonly hosts = new Map<string, Mutation>();
  /** Of all that were asked for; a smaller one is refused, or was before it. */
  largest: Extract<Mutation, { do: "resize" }> | undefined;
  limit: Extract<Mutation, { do: "limit" }> | undefined;
  /** Uses the volume from when it was UP until it is deleted, or HOST is revoked. */
  user: BusyHost | undefined;
  /** Calls for one volume are sent one after another, as a scheduler does. */
  turn: Promise<void> = Promise.resolve();
  readonly family: Family;

  constructor(id: string) {
    this.id = id;
    this.family = new Family({ id, sizeBytes: SIZE });
  }
}

/** Status codes that leave the outcome of the call unknown. */
const UNKNOWN: readonly number[] = [status.UNAVAILABLE, status.CANCELLED, status.DEADLINE_EXCEEDED];
/** Refusals that are over once the free space is zeroed and the disk attached, which the agent does by itself. */
const PASSING: readonly string[] = ["FREE_SPACE_NOT_ZEROED", "DISK_NOT_UP"];
/** Refusals that a history may cause: missing volume, retired id, smaller size, disk not ready or not zeroed. */
const DEFINITE: readonly string[] = [
  "NOT_FOUND",
  "ID_RETIRED",
  "SHRINK_REFUSED",
  ...PASSING,
  "NO_DISK_FITS",
  "CORDONED",
];

/** What is sent, and where the target listens. */
type To = { readonly agent: TestAgent; readonly socket: string };

/**
 * Makes an lvol named by the volume's id behind the agent's back, and adopts it. Repeated before every
 * other call for the volume, which is refused while there is an orphan of that name.
 */
async function adopt(
  volume: Volume,
  { agent: { client }, socket }: To,
  options: { readonly deadline: number },
): Promise<void> {
  if (volume.lvolUuid === undefined) volume.lvolUuid = await makeOrphan(volume.id, socket);
  const request = { uuid: volume.lvolUuid, id: volume.id };
  const { lvol } = await call(client, client.adoptOrphan.bind(client), request, options);
  volume.nqn = lvol?.status?.nqn ?? "";
}

async function makeOrphan(name: string, path: string): Promise<string> {
  await using connection = new SpdkConnection({ path, mayMutate: () => true });
  await until("the target answers", () => connection.connected, 5_000);
  const spdk = spdkClient(connection);
  const [store] = await spdk.bdevLvolGetLvstores();
  if (store === undefined) throw new SpdkNotSent("bdev_lvol_create", "down");
  const found = await spdk.getBdev(`${store.name}/${name}`);
  return (
    found?.uuid ??
    (await spdk.bdevLvolCreate({
      lvsUuid: store.uuid,
      lvolName: name,
      sizeBytes: SIZE,
      thin: true,
      clearMethod: "write_zeroes",
    }))
  );
}

/** The orphan could not be made, or the agent was killed meanwhile. */
function isNotSent(error: unknown): boolean {
  if (error instanceof SpdkNotSent || error instanceof SpdkUnknownOutcome) return true;
  if (error instanceof SpdkError) return true;
  return error instanceof Error && error.message === "Channel has been shut down";
}
const bytesOf = ({ sizes: times }: { readonly sizes: number }) => BigInt(times) * SIZE;

/**
 * Sends one call. False: outcome unknown, or a refusal that passes, if it is sent until it has an outcome. Throws on
 * an unexpected answer.
 */
async function sendOnce(
  volume: Volume,
  one: Mutation,
  to: To,
  { lasting = false }: { readonly lasting?: boolean } = {},
): Promise<boolean> {
  const { client } = to.agent;
  const waitTimeout = one.wait ? { seconds: 3n, nanos: 0 } : undefined;
  const options = { deadline: Date.now() + 5_000 };
  try {
    await send();
    return true;
  } catch (error) {
    if (isNotSent(error)) return false;
    const { code, reason } = await refusal(Promise.reject(error));
    if (lasting && PASSING.includes(reason)) return false;
    if (DEFINITE.includes(reason)) return true;
    if (UNKNOWN.includes(code)) return false;
    throw error;
  }

  async function send(): Promise<unknown> {
    if (volume.adopted && one.do !== "adopt") {
      await adopt(volume, to, options).catch(async (error: unknown) => {
        const { reason } = await refusal(Promise.reject(error));
        if (reason !== "ID_RETIRED") throw error;
      });
    }
    switch (one.do) {
      case "adopt": {
        if (volume.deleted || (volume.provisioned && !volume.adopted)) return undefined;
        volume.provisioned = true;
        volume.adopted = true;
        await adopt(volume, to, options);
        if (!volume.hosts.has(HOST)) volume.hosts.set(HOST, { ...one, do: "allow", host: HOST });
        return undefined;
      }
      case "provision": {
        if (volume.adopted) return undefined;
        volume.provisioned = true;
        const spec = lvolSpec({ sizeBytes: SIZE });
        const request = { id: volume.id, spec, waitTimeout, validateOnly: false };
        const { lvol } = await call(client, client.provisionLvol.bind(client), request, options);
        if (lvol !== undefined && stateOf(lvol) === "LVOL_STATE_UP") {
          volume.lvolUuid ??= lvol.status?.lvolUuid;
          volume.nqn = lvol.status?.nqn ?? "";
          if (lvol.status?.lvolUuid !== volume.lvolUuid)
            throw new Error(`volume ${volume.id} has another lvol than before`);
        }
        return lvol;
      }
      case "delete": {
        volume.deleted = true;
        const target = { $case: "lvolId" as const, value: volume.id };
        const request = { target, waitTimeout, deferred: false, force: false, reason: "" };
        return await call(client, client.delete.bind(client), request, options);
      }
      case "allow":
        volume.hosts.set(one.host, one);
        return await call(client, client.allowHost.bind(client), ofHost(one.host), options);
      case "revoke":
        volume.hosts.set(one.host, one);
        return await call(client, client.revokeHost.bind(client), ofHost(one.host), options);
      case "resize": {
        if (one.sizes > (volume.largest?.sizes ?? 0)) volume.largest = one;
        const request = { lvolId: volume.id, sizeBytes: bytesOf(one), waitTimeout };
        return await call(client, client.resizeLvol.bind(client), request, options);
      }
      case "limit": {
        volume.limit = one;
        const none = { rwMibPerSecond: 0n, readMibPerSecond: 0n, writeMibPerSecond: 0n };
        const qos = { ...none, rwIops: BigInt(one.rwIops) };
        const changes = { qos, labels: {}, setLabels: false, etag: "" };
        const request = { lvolId: volume.id, ...changes, waitTimeout };
        return await call(client, client.updateLvol.bind(client), request, options);
      }
    }
  }

  function ofHost(hostNqn: string) {
    return { lvolId: volume.id, hostNqn, waitTimeout };
  }
}

type Found = {
  readonly id: string;
  readonly state: string | undefined;
  readonly lvolUuid: string | undefined;
  readonly hosts: readonly string[];
  readonly sizeBytes: bigint;
  readonly rwIops: bigint;
  /** Distinct bytes in the page that its host wrote, and in the rest of that cluster. */
  readonly bytes: ReturnType<typeof readBack>;
};
type Held = { readonly target: ReturnType<typeof onTarget>; readonly volumes: readonly Found[] };
/** The final state and the expected one. */
export type AtRest = { readonly found: Held; readonly wanted: Held };

class History implements AsyncDisposable {
  readonly scenario: CrashScenario;
  readonly #volumes: readonly Volume[];
  /** Read until the agent that they ask ends. */
  readonly #counterReaders: CounterReader[] = [];
  #resumeStopped: (() => void) | undefined;
  /** The agent that calls go to; while it is being replaced, its successor. */
  #agent: Promise<TestAgent>;

  constructor(scenario: CrashScenario, seed: string) {
    this.scenario = scenario;
    this.#agent = scenario.start();
    this.#volumes = Array.from(
      { length: SLOTS },
      (_, index) => new Volume(uuidV5(NAMESPACE, `${seed} ${index}`)),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const reader of this.#counterReaders) reader[Symbol.dispose]();
    await Promise.all(this.#users().map((user) => user[Symbol.asyncDispose]()));
  }

  async begin(): Promise<void> {
    await (await this.#agent).ready();
  }

  async act(one: Action): Promise<void> {
    if (isFamilyCall(one)) {
      const volume = this.#volumes[one.slot];
      if (volume === undefined) throw new Error(`no slot ${one.slot}`);
      volume.turn = volume.turn.then(async () => {
        await volume.family.send(one, await this.#agent);
      });
      volume.turn.catch(() => {});
      return;
    }
    switch (one.do) {
      case "provision":
      case "adopt":
      case "delete":
      case "allow":
      case "revoke":
      case "resize":
      case "limit": {
        const volume = this.#volumes[one.slot];
        if (volume === undefined) throw new Error(`no slot ${one.slot}`);
        volume.turn = volume.turn.then(async () => {
          const ends = one.do === "delete" || (one.do === "revoke" && one.host === HOST);
          if (ends) await this.#leave(volume);
          await sendOnce(volume, one, this.#to(await this.#agent));
          this.#use(volume);
        });
        // A failure is reported by the later wait for all answers.
        volume.turn.catch(() => {});
        return;
      }
      case "await answers":
        return await this.#answers();
      default:
        return await this.#inject(one);
    }
  }

  #to(agent: TestAgent): To {
    return { agent, socket: this.scenario.target.socket };
  }

  /** Writes the byte of the volume and lets its host connect, once it was answered to be UP. */
  #use(volume: Volume): void {
    const { lvolUuid, deleted, written, nqn } = volume;
    if (lvolUuid === undefined || deleted) return;
    if (!written) volume.written = tag(this.scenario, lvolUuid, this.#byteOf(volume));
    // An orphan has bytes before it is adopted.
    if (nqn === "" || !allows(volume, HOST)) return;
    const { fabric } = this.scenario.target;
    volume.user ??= BusyHost.start({ fabric, host: HOST, nqn });
  }

  #users(): readonly BusyHost[] {
    return this.#volumes.map(({ user }) => user).filter((user) => user !== undefined);
  }

  /** Throws if the host of the volume has seen harm. */
  async #leave(volume: Volume): Promise<void> {
    const { user } = volume;
    volume.user = undefined;
    const harm = (await user?.stop()) ?? [];
    if (harm.length > 0) throw new Error(`host of ${volume.id}: ${harm.join("; ")}`);
  }

  #byteOf(volume: Volume): number {
    return this.#volumes.indexOf(volume) + 1;
  }

  async #inject(one: Fault): Promise<void> {
    const { scenario } = this;
    switch (one.do) {
      case "kill":
        return await this.#kill(one);
      case "slow":
      case "delay":
        scenario.target.engine().gate.addRule({ effect: one.do, nth: one.nth, polls: one.polls });
        return;
      case "lose connection":
        scenario.loseConnection();
        return;
      case "cut database":
        scenario.database().cut();
        return;
      case "take over":
        this.#resumeStopped = await this.#replaced(scenario.takeOver());
        return;
      case "let go on":
        this.#resumeStopped?.();
        this.#resumeStopped = undefined;
        return;
      case "zero free space":
        await zeroFreeSpace(await this.#agent).catch(() => {});
        return;
      case "read counters":
        this.#counterReaders.push(new CounterReader(await this.#agent));
        return;
      case "cordon":
      case "uncordon":
        await setCordon(await this.#agent, one.do).catch(() => {});
    }
  }

  /** Kills at the n-th request from now on, or once all calls are answered if that comes first. */
  async #kill({ victim, when, nth }: Extract<Action, { do: "kill" }>): Promise<void> {
    const { scenario } = this;
    const { gate } = scenario.target.engine();
    const stopped = new Promise<void>((resolve) => {
      gate.onStopped = () => resolve();
    });
    gate.stopAt({ when, nth });
    await Promise.race([stopped, this.#answers()]);
    gate.onStopped = () => setImmediate(() => scenario.target.resume());
    if (victim !== "agent") await scenario.target.restart();
    if (victim === "target") return;
    this.#resumeStopped = undefined;
    const killing = scenario.killAgent();
    scenario.target.resume();
    await this.#replaced(killing.then(() => scenario.start()));
  }

  async #replaced<T>(by: Promise<T>): Promise<T> {
    this.#agent = by.then(this.scenario.agent);
    this.#agent.catch(() => {});
    return await by;
  }

  async #answers(): Promise<void> {
    await Promise.all(this.#volumes.map(({ turn }) => turn));
  }

  /** Repeats every call until it is answered; then returns the final and the expected state. */
  async rest(): Promise<AtRest> {
    const { scenario } = this;
    this.#resumeStopped?.();
    const agent = await this.#agent;
    await this.#answers();
    // On a busy machine a resumed agent may have acquired the lease again: kill it.
    await scenario.killStopped();
    await agent.ready();
    await until("the node takes volumes and its free space is zeroed", async () => {
      return await Promise.all([setCordon(agent, "uncordon"), zeroFreeSpace(agent)]).then(
        () => true,
        () => false,
      );
    });
    await Promise.all(this.#volumes.map((volume) => repeat(volume, this.#to(agent))));
    await until("calls about snapshots and clones are answered", async () => {
      const answers = this.#volumes.map(({ family }) => family.repeat(agent));
      return (await Promise.all(answers)).every(Boolean);
    });
    for (const volume of this.#volumes) this.#use(volume);
    await settled(scenario);
    await Promise.all(this.#users().map((user) => user.writesAgain()));
    await Promise.all(this.#volumes.map((volume) => this.#leave(volume)));
    const misread = this.#counterReaders.flatMap((reader) => reader.harm());
    if (misread.length > 0) throw new Error(`readers of counters: ${misread.join("; ")}`);
    const kept = this.#volumes.filter(({ provisioned, deleted }) => provisioned && !deleted);
    const families = await this.#familiesAtRest(agent);
    const volumes = exactly(kept.map(({ id }) => id));
    const wanted = {
      target: {
        ...volumes,
        lvols: [...volumes.lvols, ...families.flatMap(({ lvols }) => lvols)].toSorted(),
        exported: [...volumes.exported, ...families.flatMap((one) => one.exported)].toSorted(),
      },
      volumes: kept.map((volume) => wantedOf(volume, this.#byteOf(volume))),
    };
    const observe = async (): Promise<Held> => ({
      target: onTarget(scenario),
      volumes: await Promise.all(kept.map(async ({ id }) => await this.#find(id))),
    });
    // A call whose wait timed out was answered before it was executed.
    const same = async () => isDeepStrictEqual(await observe(), wanted);
    await until("the final state is the expected one", same, SETTLE_MS).catch(() => {});
    return { found: await observe(), wanted };
  }

  async #familiesAtRest(agent: TestAgent) {
    const all = () => this.#volumes.map(({ family }) => family.atRest(agent));
    let problem: unknown;
    const agrees = () => {
      try {
        all();
        return true;
      } catch (error) {
        problem = error;
        return false;
      }
    };
    await until("snapshots and clones are as asked for", agrees).catch((cause: unknown) => {
      throw new Error(String(problem), { cause });
    });
    for (const volume of this.#volumes) {
      volume.family.checkBytes(this.scenario, agent, this.#byteOf(volume));
    }
    return all();
  }

  async #find(id: string): Promise<Found> {
    const { status: observed } = await getLvol(this.scenario.agent(), id);
    const subsystem = [...this.scenario.target.state().subsystems.values()].find(({ namespaces }) =>
      [...namespaces.values()].some(({ uuid }) => uuid === id),
    );
    const hosts = subsystem?.hosts.toSorted() ?? [];
    const lvol = this.scenario.target.state().lvol(observed?.lvolUuid ?? "");
    const sizeBytes = BigInt(lvol?.numBlocks ?? 0) * 4_096n;
    const rwIops = BigInt(lvol?.limits.rwIos ?? 0);
    const bytes = readBack(this.scenario, observed?.lvolUuid ?? "");
    const { state, lvolUuid } = observed ?? {};
    return { id, state, lvolUuid, hosts, sizeBytes, rwIops, bytes };
  }
}

const allows = ({ hosts }: Volume, host: string) =>
  (hosts.get(host)?.do ?? (host === HOST ? "allow" : "revoke")) === "allow";

function wantedOf(volume: Volume, byte: number): Found {
  const { id, lvolUuid, largest, limit } = volume;
  const allowed = HOSTS.filter((one) => allows(volume, one));
  const bytes = { written: [byte], rest: [0] };
  const sizeBytes = largest === undefined ? SIZE : bytesOf(largest);
  const rwIops = BigInt(limit?.rwIops ?? 0);
  const state = "LVOL_STATE_UP";
  return { id, state, lvolUuid, hosts: allowed.toSorted(), sizeBytes, rwIops, bytes };
}

async function repeat(volume: Volume, to: To): Promise<void> {
  const again = async (one: Mutation) => {
    const send = async () => await sendOnce(volume, one, to, { lasting: true });
    await until(`${one.do} is answered`, send);
  };
  const slot = 0;
  if (volume.deleted) return await again({ do: "delete", slot, wait: true });
  if (!volume.provisioned) return;
  if (volume.adopted) await again({ do: "adopt", slot, wait: true });
  // An agent that has not observed a fault of its target yet may be ready and still refuse.
  await until("provision is answered with a volume", async () => {
    await sendOnce(volume, { do: "provision", slot, wait: true }, to);
    if (volume.lvolUuid === undefined) await zeroFreeSpace(to.agent).catch(() => {});
    return volume.lvolUuid !== undefined;
  });
  const { hosts, largest, limit } = volume;
  const changes = [...hosts.values(), largest, limit].filter((one) => one !== undefined);
  await Promise.all(changes.map((one) => again({ ...one, wait: true })));
}

/**
 * Executes the actions and waits for the final state. Throws if that fails or the target aborts.
 */
export async function runHistory(actions: readonly Action[]): Promise<AtRest> {
  await using scenario = await crashScenario({ leaseTermMs: LEASE_MS, graceMs: GRACE_MS });
  await using history = new History(scenario, JSON.stringify(actions));
  const execute = async () => {
    await history.begin();
    for (const one of actions) await history.act(one);
    return await history.rest();
  };
  return await Promise.race([execute(), scenario.target.aborted]);
}

/** What is there goes on whatever the node takes. */
async function setCordon({ client }: TestAgent, kind: "cordon" | "uncordon"): Promise<void> {
  const node = { diskId: "" };
  if (kind === "uncordon") await call(client, client.uncordon.bind(client), node);
  else await call(client, client.cordon.bind(client), { ...node, reason: "a random history" });
}
