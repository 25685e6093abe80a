// Random lives of a node: what callers ask, and what goes wrong meanwhile. A life is a list of actions;
// what must be true at its end follows from what was asked and answered, and from nothing else.
import { status } from "@grpc/grpc-js";
import fc from "fast-check";
import { isDeepStrictEqual } from "node:util";
import { uuidV5 } from "../../src/model/identity.ts";
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
import { getLvol, HOST, lvolSpec, stateOf } from "./volumes.ts";

const SLOTS = 5;
const HOSTS = [HOST, `${HOST.slice(0, -1)}2`, `${HOST.slice(0, -1)}3`] as const;
const SIZE = 64n * 1024n * 1024n;
const NAMESPACE = "7b1d8a4e-2f5c-4e0a-8a51-1c6d9e7f3b20";
/** Long enough that an agent which is merely busy keeps it. */
const LEASE_MS = 1_500;
const GRACE_MS = 500;
const SETTLE_MS = 5_000;

/** Plain objects, so that a life is printed as it can be pasted. */
const record = <T>(of: { [K in keyof T]: fc.Arbitrary<T[K]> }) =>
  fc.record(of, { noNullPrototype: true });
const constant = <const T>(value: T) => fc.constant(value);

const slot = fc.nat({ max: SLOTS - 1 });
const host = fc.constantFrom(...HOSTS);
const nth = fc.integer({ min: 1, max: 12 });
const wait = fc.boolean();
const when = fc.constantFrom("before" as const, "after" as const);

const mutation = fc.oneof(
  { weight: 5, arbitrary: record({ do: constant("provision"), slot, wait }) },
  { weight: 3, arbitrary: record({ do: constant("delete"), slot, wait }) },
  { weight: 2, arbitrary: record({ do: constant("allow"), slot, host, wait }) },
  { weight: 2, arbitrary: record({ do: constant("revoke"), slot, host, wait }) },
);
const trouble = fc.oneof(
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
);
const action = fc.oneof(
  { weight: 3, arbitrary: mutation },
  { weight: 1, arbitrary: trouble },
  { weight: 1, arbitrary: record({ do: constant("await answers") }) },
);

export const histories = fc.array(action, { minLength: 3, maxLength: 16, size: "max" });

type Mutation = typeof mutation extends fc.Arbitrary<infer T> ? T : never;
type Cause = typeof trouble extends fc.Arbitrary<infer T> ? T : never;
export type Action = typeof action extends fc.Arbitrary<infer T> ? T : never;

/** What was asked of one volume, in order, and what was answered for good. */
class Volume {
  readonly id: string;
  provisioned = false;
  deleted = false;
  /** Once it was UP, another lvol in its place would be somebody's data lost. */
  lvolUuid: string | undefined;
  /** A host has written into it. */
  written = false;
  readonly hosts = new Map<string, Mutation>();
  /** Calls of one volume go one after the other, as a scheduler sends them. */
  turn: Promise<void> = Promise.resolve();

  constructor(id: string) {
    this.id = id;
  }
}

/** Not an answer to what was asked: whether it was done is not known. */
const UNKNOWN: readonly number[] = [status.UNAVAILABLE, status.CANCELLED, status.DEADLINE_EXCEEDED];
/** An answer to be expected in such a life: the volume, its disk or its id are not as they must be. */
const DEFINITE: readonly string[] = [
  "NOT_FOUND",
  "ID_RETIRED",
  "FREE_SPACE_NOT_ZEROED",
  "DISK_NOT_UP",
  "NO_DISK_FITS",
];

/** Asks once. False: not known. Throws on an answer that no caller can make sense of. */
async function asked(volume: Volume, one: Mutation, { client }: TestAgent): Promise<boolean> {
  const waitTimeout = one.wait ? { seconds: 3n, nanos: 0 } : undefined;
  const options = { deadline: Date.now() + 5_000 };
  try {
    await send();
    return true;
  } catch (error) {
    const { code, reason } = await refusal(Promise.reject(error));
    if (DEFINITE.includes(reason)) return true;
    if (UNKNOWN.includes(code)) return false;
    throw error;
  }

  async function send(): Promise<unknown> {
    switch (one.do) {
      case "provision": {
        volume.provisioned = true;
        const spec = lvolSpec({ sizeBytes: SIZE });
        const request = { id: volume.id, spec, waitTimeout, validateOnly: false };
        const { lvol } = await call(client, client.provisionLvol.bind(client), request, options);
        if (lvol !== undefined && stateOf(lvol) === "LVOL_STATE_UP") {
          volume.lvolUuid ??= lvol.status?.lvolUuid;
          if (lvol.status?.lvolUuid !== volume.lvolUuid)
            throw new Error(`${volume.id} was replaced`);
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
    }
  }

  function ofHost(hostNqn: string) {
    return { lvolId: volume.id, hostNqn, waitTimeout };
  }
}

async function zeroFreeSpace({ client }: TestAgent): Promise<void> {
  const page = { pageSize: 0, pageToken: "" };
  const { disks } = await call(client, client.listDisks.bind(client), page);
  const waitTimeout = { seconds: 10n, nanos: 0 };
  await Promise.all(
    disks
      .filter((disk) => disk.status?.lvstore?.freeSpace !== "FREE_SPACE_ZEROED")
      .map(async (disk) => {
        const request = { diskId: disk.meta?.id ?? "", waitTimeout };
        await call(client, client.zeroFreeSpace.bind(client), request);
      }),
  );
}

type Found = {
  readonly id: string;
  readonly state: string | undefined;
  readonly lvolUuid: string | undefined;
  readonly hosts: readonly string[];
  /** Its own bytes where its host wrote, and nobody's where it did not. */
  readonly bytes: ReturnType<typeof readBack>;
};
type Held = { readonly target: ReturnType<typeof onTarget>; readonly volumes: readonly Found[] };
/** What there is when everything has come to rest, and what there should be. */
export type AtRest = { readonly found: Held; readonly wanted: Held };

class History {
  readonly scenario: CrashScenario;
  readonly #volumes: readonly Volume[];
  #letGoOn: (() => void) | undefined;
  /** The one to ask: while one is being replaced, the next. */
  #agent: Promise<TestAgent>;

  constructor(scenario: CrashScenario, seed: string) {
    this.scenario = scenario;
    this.#agent = scenario.start();
    this.#volumes = Array.from(
      { length: SLOTS },
      (_, index) => new Volume(uuidV5(NAMESPACE, `${seed} ${index}`)),
    );
  }

  async begin(): Promise<void> {
    await (await this.#agent).ready();
  }

  async act(one: Action): Promise<void> {
    switch (one.do) {
      case "provision":
      case "delete":
      case "allow":
      case "revoke": {
        const volume = this.#volumes[one.slot];
        if (volume === undefined) throw new Error(`no slot ${one.slot}`);
        volume.turn = volume.turn.then(async () => {
          await asked(volume, one, await this.#agent);
          this.#tag(volume);
        });
        // Whoever waits for it later is told.
        volume.turn.catch(() => {});
        return;
      }
      case "await answers":
        return await this.#answers();
      default:
        return await this.#trouble(one);
    }
  }

  /** As soon as a volume was answered to be UP its host writes into it. */
  #tag(volume: Volume): void {
    const { lvolUuid, deleted, written } = volume;
    if (lvolUuid === undefined || deleted || written) return;
    volume.written = tag(this.scenario, lvolUuid, this.#byteOf(volume));
  }

  #byteOf(volume: Volume): number {
    return this.#volumes.indexOf(volume) + 1;
  }

  async #trouble(one: Cause): Promise<void> {
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
        this.#letGoOn = await this.#replaced(scenario.takeOver());
        return;
      case "let go on":
        this.#letGoOn?.();
        this.#letGoOn = undefined;
        return;
      case "zero free space":
        await zeroFreeSpace(await this.#agent).catch(() => {});
    }
  }

  /** At the n-th request from now on, or when all calls were answered before it came. */
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
    this.#letGoOn = undefined;
    const killing = scenario.killAgent();
    scenario.target.resume();
    await this.#replaced(killing.then(scenario.start));
  }

  async #replaced<T>(by: Promise<T>): Promise<T> {
    this.#agent = by.then(this.scenario.agent);
    this.#agent.catch(() => {});
    return await by;
  }

  async #answers(): Promise<void> {
    await Promise.all(this.#volumes.map(({ turn }) => turn));
  }

  /** Everything is asked again until it is answered; then rows and target are compared. */
  async rest(): Promise<AtRest> {
    const { scenario } = this;
    this.#letGoOn?.();
    const agent = await this.#agent;
    await this.#answers();
    // On a busy machine the one that went on may have taken the lease again.
    await scenario.killStopped();
    await agent.ready();
    await until("the free space is zeroed", async () => {
      return await zeroFreeSpace(agent).then(
        () => true,
        () => false,
      );
    });
    await Promise.all(this.#volumes.map((volume) => repeat(volume, agent)));
    for (const volume of this.#volumes) this.#tag(volume);
    await settled(scenario);
    const kept = this.#volumes.filter(({ provisioned, deleted }) => provisioned && !deleted);
    const wanted = {
      target: exactly(kept.map(({ id }) => id)),
      volumes: kept.map((volume) => wantedOf(volume, this.#byteOf(volume))),
    };
    const look = async (): Promise<Held> => ({
      target: onTarget(scenario),
      volumes: await Promise.all(kept.map(async ({ id }) => await this.#find(id))),
    });
    // A call whose wait ended first was answered before it was carried out.
    const same = async () => isDeepStrictEqual(await look(), wanted);
    await until("it is as wanted", same, SETTLE_MS).catch(() => {});
    return { found: await look(), wanted };
  }

  async #find(id: string): Promise<Found> {
    const { status: observed } = await getLvol(this.scenario.agent(), id);
    const subsystem = [...this.scenario.target.state().subsystems.values()].find(({ namespaces }) =>
      [...namespaces.values()].some(({ uuid }) => uuid === id),
    );
    const hosts = subsystem?.hosts.toSorted() ?? [];
    const bytes = readBack(this.scenario, observed?.lvolUuid ?? "");
    return { id, state: observed?.state, lvolUuid: observed?.lvolUuid, hosts, bytes };
  }
}

function wantedOf({ id, lvolUuid, hosts }: Volume, byte: number): Found {
  const allowed = HOSTS.filter((one) => (hosts.get(one)?.do ?? first(one)) === "allow");
  const bytes = { written: [byte], rest: [0] };
  return { id, state: "LVOL_STATE_UP", lvolUuid, hosts: allowed.toSorted(), bytes };
}

const first = (host: string) => (host === HOST ? "allow" : "revoke");

async function repeat(volume: Volume, agent: TestAgent): Promise<void> {
  const again = async (one: Mutation) => {
    await until(`${one.do} is answered`, async () => await asked(volume, one, agent));
  };
  const slot = 0;
  if (volume.deleted) return await again({ do: "delete", slot, wait: true });
  if (!volume.provisioned) return;
  // An agent that has not yet noticed what befell its target may be ready and still refuse.
  await until("provision is answered with a volume", async () => {
    await asked(volume, { do: "provision", slot, wait: true }, agent);
    if (volume.lvolUuid === undefined) await zeroFreeSpace(agent).catch(() => {});
    return volume.lvolUuid !== undefined;
  });
  await Promise.all([...volume.hosts.values()].map((one) => again({ ...one, wait: true })));
}

/** Lives it, then lets it come to rest. Throws when it does not, or when the target aborts. */
export async function live(actions: readonly Action[]): Promise<AtRest> {
  await using scenario = await crashScenario({ leaseTermMs: LEASE_MS, graceMs: GRACE_MS });
  const history = new History(scenario, JSON.stringify(actions));
  const living = async () => {
    await history.begin();
    for (const one of actions) await history.act(one);
    return await history.rest();
  };
  return await Promise.race([living(), scenario.target.aborted]);
}
