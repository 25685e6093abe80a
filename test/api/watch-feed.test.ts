// What readers of Watch are sent: with what they knew, also from an earlier stream, it is what there is.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { WatchFeed, type WatchReader } from "../../src/api/watch-feed.ts";
import { watchedKind } from "../../src/api/watched-kind.ts";
import { Lvol } from "../../src/gen/storagenode/v1/lvol.ts";
import { WatchResponse } from "../../src/gen/storagenode/v1/storage_node.ts";
import { Refusal } from "../../src/model/errors.ts";
import type { LvolRow } from "../../src/model/lvol.ts";
import { lvolRow } from "../support/model.ts";

const [A, B, C] = ["a", "b", "c"] as const;
const none = watchedKind<LvolRow>({
  rows: () => [],
  row: () => undefined,
  isUp: () => true,
  encode: () => Buffer.alloc(0),
});

/** What a client knows of each object, and from which revision it may resume. */
type Knowledge = { readonly texts: ReadonlyMap<string, string>; readonly revision: bigint };

const NOTHING: Knowledge = { texts: new Map(), revision: 0n };

/** A node of volumes whose rows and observations are a number each. */
class World {
  readonly #rows = new Map<string, LvolRow>();
  readonly #observed = new Map<string, number>();
  #revision = 0n;
  readonly feed: WatchFeed;

  constructor({ turnObjects = 10, oddIsDown = false } = {}) {
    const lvol = watchedKind<LvolRow>({
      rows: () => this.#rows.values(),
      row: (id) => this.#rows.get(id),
      isUp: ({ id }) => !oddIsDown || (this.#observed.get(id) ?? 0) % 2 === 0,
      encode: (row) => {
        const { id, deleteTime } = row;
        const value = Lvol.fromPartial({
          meta: { id, deleteTime },
          status: { lastError: this.#text(row) },
        });
        const change = { $case: "lvol", value } as const;
        return Buffer.from(WatchResponse.encode({ revision: 0n, change }).finish());
      },
    });
    const source = { revision: () => this.#revision, onHold: () => false };
    const limits = { messages: 1_000, bytes: 1_000_000, turnObjects };
    this.feed = new WatchFeed({ ...source, kinds: { disk: none, lvol, snapshot: none } }, limits);
  }

  #text({ id, labels }: LvolRow): string {
    return `${labels["row"]} ${this.#observed.get(id) ?? 0}`;
  }

  get revision(): bigint {
    return this.#revision;
  }

  get present(): ReadonlyMap<string, string> {
    const there = [...this.#rows.values()].filter(({ deleteTime }) => deleteTime === undefined);
    return new Map(there.map((row) => [row.id, this.#text(row)]));
  }

  commit(id: string, value: number, deleteTime?: Date): void {
    const before = this.#rows.get(id);
    if (before?.deleteTime !== undefined) return;
    this.#revision += 1n;
    const labels = { row: `${value}` };
    this.#rows.set(id, lvolRow({ id, labels, deleteTime, revision: this.#revision }));
    this.#committed(id, before);
  }

  /** Its row, if it is deleted, is gone. */
  compact(id: string): void {
    const before = this.#rows.get(id);
    if (before?.deleteTime === undefined) return;
    this.#rows.delete(id);
    this.#committed(id, before);
  }

  #committed(id: string, before: LvolRow | undefined): void {
    const change = { kind: "lvol", id, ours: true, created: false, revoked: false } as const;
    this.feed.committed([{ ...change, before }]);
  }

  observe(id: string, value: number): void {
    this.#observed.set(id, value);
    this.feed.observed({ kind: "lvol", id });
  }

  observeAll(value: number): void {
    for (const id of this.#rows.keys()) this.#observed.set(id, value);
    this.feed.observed(undefined);
  }
}

/** A stream, as the handler of Watch sends it, and what its client has learned from it. */
class Client implements Disposable {
  /** After each message. */
  readonly knew: Knowledge[] = [];
  readonly subjects: string[] = [];
  readonly opened: Promise<void>;
  readonly #world: World;
  #reader: WatchReader | undefined;
  #closed = false;
  #knows: Knowledge;
  #expired = false;

  constructor(world: World, knows: Knowledge = NOTHING) {
    this.#world = world;
    this.#knows = knows;
    const open = async () => {
      this.#reader = await world.feed.open(knows.revision);
      const synced = world.feed.sentRevision;
      for (const message of this.#reader.first) this.#learn(message);
      this.#learnRevision(synced);
      if (this.#closed) this.#reader[Symbol.dispose]();
    };
    this.opened = open().catch((error: unknown) => {
      if (!(error instanceof Refusal) || error.reason !== "REVISION_EXPIRED") throw error;
      this.#expired = true;
    });
  }

  get texts(): ReadonlyMap<string, string> {
    return this.#knows.texts;
  }

  /** It is sent what changes. */
  get isOpen(): boolean {
    return this.#reader !== undefined && !this.#closed;
  }

  /** It has to begin anew. */
  get isExpired(): boolean {
    return this.#expired;
  }

  #learn(message: Buffer): void {
    const { change, revision } = WatchResponse.decode(message);
    if (change?.$case !== "lvol") throw new Error("not a volume");
    const { meta, status } = change.value;
    const texts = new Map(this.#knows.texts);
    if (meta?.deleteTime === undefined) texts.set(meta?.id ?? "", status?.lastError ?? "");
    else texts.delete(meta.id);
    this.#knows = { ...this.#knows, texts };
    this.subjects.push(meta?.id ?? "");
    this.#learnRevision(revision);
  }

  #learnRevision(revision: bigint): void {
    if (revision > 0n) this.#knows = { ...this.#knows, revision };
    if (this.#knows.revision > 0n) this.knew.push(this.#knows);
  }

  read(): void {
    if (this.#reader === undefined || !this.isOpen) return;
    for (let next = this.#reader.take(); next !== undefined; next = this.#reader.take())
      this.#learn(next);
  }

  /** Of what it has read. */
  bookmark(): Knowledge {
    this.read();
    if (this.isOpen) this.#learnRevision(this.#world.feed.sentRevision);
    return this.#knows;
  }

  /** Opens it, and reads until nothing more comes. */
  async readAll(): Promise<Knowledge> {
    await this.opened;
    for (let turns = 0; turns < 10; turns += 1) {
      await turn();
      this.read();
    }
    return this.bookmark();
  }

  [Symbol.dispose](): void {
    if (!this.#closed) this.#reader?.[Symbol.dispose]();
    this.#closed = true;
  }
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

describe("a reader that resumes", () => {
  async function known() {
    const world = new World();
    for (const id of [A, B, C]) world.commit(id, 0);
    const watching = new Client(world);
    const knows = await watching.readAll();
    return { world, watching, knows };
  }

  it("is not sent what was observed meanwhile and has not changed", async () => {
    const { world, watching, knows } = await known();
    world.observe(A, 0);
    world.observe(B, 1);
    world.commit(C, 1);
    await watching.readAll();
    using resumed = new Client(world, knows);
    await resumed.readAll();
    expect(resumed.subjects.toSorted()).toEqual([B, C]);
    expect(resumed.texts).toEqual(world.present);
  });

  it("is not sent again what it knew before another object was committed", async () => {
    const { world, watching } = await known();
    world.observe(A, 1);
    world.commit(B, 1);
    await watching.readAll();
    world.observe(A, 1);
    world.commit(C, 1);
    const knows = await watching.readAll();
    world.observe(A, 1);
    world.observe(B, 0);
    using resumed = new Client(world, knows);
    await resumed.readAll();
    expect(resumed.subjects).toEqual([]);
  });

  it("is not sent what was observed before another object was committed, while nobody watched", async () => {
    const world = new World();
    for (const id of [A, B]) world.commit(id, 0);
    world.observe(A, 1);
    world.commit(B, 1);
    using first = new Client(world);
    const knows = await first.readAll();
    using resumed = new Client(world, knows);
    await resumed.readAll();
    expect(resumed.subjects).toEqual([]);
  });

  it.each(["of the revision that it has", "of a later one"])(
    "is sent what has changed since it left, %s",
    async (when) => {
      const { world, watching, knows } = await known();
      if (when === "of a later one") world.commit(B, 1);
      world.observe(A, 1);
      await watching.readAll();
      using resumed = new Client(world, knows);
      await resumed.readAll();
      expect(resumed.subjects).toContain(A);
      expect(resumed.texts).toEqual(world.present);
    },
  );

  it("is sent what was observed and not encoded when the last one left", async () => {
    const { world, watching, knows } = await known();
    world.observe(A, 1);
    watching[Symbol.dispose]();
    await turn();
    using resumed = new Client(world, knows);
    await resumed.readAll();
    expect(resumed.texts).toEqual(world.present);
  });

  it("is sent what was observed while nobody watched", async () => {
    const { world, watching, knows } = await known();
    watching[Symbol.dispose]();
    world.observe(A, 1);
    using resumed = new Client(world, knows);
    await resumed.readAll();
    expect(resumed.texts).toEqual(world.present);
  });

  it("is sent what is observed while it is being opened, encoded already or not", async () => {
    const world = new World({ turnObjects: 1 });
    for (const id of [A, B, C]) world.commit(id, 0);
    const first = new Client(world);
    const knows = await first.readAll();
    first[Symbol.dispose]();
    using resumed = new Client(world, knows);
    await turn();
    world.observe(A, 1);
    world.observe(C, 1);
    await resumed.readAll();
    expect(resumed.texts).toEqual(world.present);
  });
});

const id = fc.constantFrom(A, B, C);
const value = fc.nat({ max: 2 });
const which = fc.nat();
const act = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("commit"), id, value }) },
  { weight: 5, arbitrary: fc.record({ kind: fc.constant("observe"), id, value }) },
  fc.record({ kind: fc.constant("observe all"), value }),
  fc.record({ kind: fc.constantFrom("delete", "compact"), id }),
  { weight: 6, arbitrary: fc.record({ kind: fc.constantFrom("turn", "settle") }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constantFrom("open", "resume", "close"), which }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constantFrom("read", "bookmark"), which }) },
);

type Act = typeof act extends fc.Arbitrary<infer T> ? T : never;

async function perform(world: World, clients: Client[], now: Act): Promise<void> {
  const chosen = "which" in now ? clients[now.which % clients.length] : undefined;
  switch (now.kind) {
    case "commit":
      return world.commit(now.id, now.value);
    case "delete":
      return world.commit(now.id, 0, new Date(0));
    case "compact":
      return world.compact(now.id);
    case "observe":
      return world.observe(now.id, now.value);
    case "observe all":
      return world.observeAll(now.value);
    case "turn":
      await turn();
      return;
    case "settle":
      for (let turns = 0; turns < 8; turns += 1) await turn();
      return;
    case "open":
      clients.push(new Client(world));
      return;
    case "resume": {
      const knew = clients.flatMap((client) => client.knew);
      clients.push(new Client(world, knew[now.which % knew.length]));
      return;
    }
    case "close":
      return chosen?.[Symbol.dispose]();
    case "read":
      return chosen?.read();
    case "bookmark":
      chosen?.bookmark();
  }
}

/** What the clients know in the end that go on, and those that resume from what any of them knew. */
async function finalKnowledge(world: World, clients: readonly Client[], leave: boolean) {
  // As it is left there, with objects that are still to be encoded.
  const knew = clients.flatMap((client) => client.knew);
  if (leave) for (const client of clients) client[Symbol.dispose]();
  const found: ReadonlyMap<string, string>[] = [];
  for (const client of clients) {
    await client.readAll();
    if (client.isOpen) found.push(client.texts);
  }
  for (const knows of knew) {
    using resumed = new Client(world, knows);
    await resumed.readAll();
    if (!resumed.isExpired) found.push(resumed.texts);
  }
  return found;
}

describe("whatever is committed and observed", () => {
  it("all that a client knew and is sent is what is there", async () => {
    const turnObjects = fc.integer({ min: 1, max: 3 });
    const worlds = fc.record({ turnObjects, oddIsDown: fc.boolean() });
    const acts = fc.array(act, { maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(worlds, acts, fc.boolean(), async (how, all, leave) => {
        const world = new World(how);
        for (const one of [A, B]) world.commit(one, 0);
        const clients: Client[] = [new Client(world)];
        for (const now of all) await perform(world, clients, now);
        const found = await finalKnowledge(world, clients, leave);
        expect(found).toEqual(found.map(() => world.present));
      }),
      { numRuns: 300 },
    );
  }, 60_000);
});
