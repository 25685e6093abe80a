// Explanations of volumes as a pure function: which cause is named first, and what stays UNKNOWN.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { explainLvol } from "../../src/explain/lvol.ts";
import type { LvolFacts } from "../../src/explain/lvol-facts.ts";
import {
  down,
  HOST,
  LVOL,
  lvolFacts,
  nodeFacts,
  NOW,
  SUBSYSTEM,
  UUID,
  volumeRow,
} from "../support/explain-facts.ts";
import { diskRow, LISTENER, MIB, observedVolume, VOLUME } from "../support/model.ts";

const ELSEWHERE = { ...LISTENER, traddr: "192.0.2.1" };
const AWAY = { observed: observedVolume(), targetConnected: false };
const NO_DISK = { ...AWAY, targetConnected: true, diskReady: false };
const NEVER_MADE = {
  row: volumeRow({ lvolUuid: undefined, exported: false, observedGeneration: 0n }),
  observed: observedVolume({ lvol: { kind: "absent" }, subsystem: SUBSYSTEM }),
};
const GONE = {
  observed: observedVolume({ lvol: { kind: "absent" }, subsystem: SUBSYSTEM }),
};
const NOT_ZEROED = {
  reason: "FREE_SPACE_NOT_ZEROED",
  loop: "provision",
  cause: "free clusters of its disk may hold old bytes",
  cure: "call ZeroFreeSpace",
  waits: "waits for the free space to be zeroed",
} as const;
const ZEROES = {
  op: "zero-free-space",
  run: "0123456789abcdef",
  epoch: 1n,
  since: NOW,
  failed: false,
} as const;
const TARGET_DOWN = { ...nodeFacts().target, ...down("ECONNREFUSED"), answers: false };

/** The volume's lvol, and its subsystem with a change. */
const withChanged = (change: Partial<typeof SUBSYSTEM>) =>
  observedVolume({ lvol: LVOL, subsystem: { ...SUBSYSTEM, ...change } });

const answersOf = (facts: LvolFacts) =>
  explainLvol(facts)
    .checks.map(({ answer }) => answer[0])
    .join("");

describe("an explanation of an UP volume", () => {
  it("answers YES six times, names the hosts that may connect and the addresses, and has no cure", () => {
    const said = explainLvol(lvolFacts());
    expect(said.checks.map(({ answer, remedy }) => ({ answer, remedy }))).toEqual(
      Array.from({ length: 6 }, () => ({ answer: "YES", remedy: "" })),
    );
    expect(said.summary).toContain(`is UP: ${HOST} may connect to `);
    expect(said.summary).toContain("on TCP 127.0.0.1:4420");
    expect(said).toMatchObject({ nextStep: "nothing: all is as wanted", lastError: undefined });
  });

  it("says that only this machine reaches a loopback address", () => {
    const evidence = (facts: LvolFacts) => explainLvol(facts).checks[3]?.evidence;
    expect(evidence(lvolFacts())).toContain("only hosts on this machine");
    const far = { ...LISTENER, traddr: "198.51.100.7" };
    const observed = withChanged({ listeners: [far] });
    expect(evidence(lvolFacts({ view: { observed, listenAddresses: [far] } }))).toBe(
      "on TCP 198.51.100.7:4420",
    );
  });

  it("names the connected hosts", () => {
    const said = explainLvol(lvolFacts({ connectedHosts: [HOST] }));
    expect(said.checks[4]?.evidence).toContain(`connected: ${HOST}`);
  });

  it("accepts an existing listener whatever the addresses of this machine are", () => {
    const observed = withChanged({ listeners: [ELSEWHERE] });
    expect(answersOf(lvolFacts({ view: { observed, listenAddresses: [ELSEWHERE] } }))).toBe(
      "YYYYYY",
    );
  });
});

/** Name, facts, expected cause and expected cure; in the order of dependency. */
const CAUSES: readonly (readonly [string, Parameters<typeof lvolFacts>[0], RegExp, RegExp])[] = [
  [
    "hold",
    { node: nodeFacts({ hold: "the database is behind", writeMode: "read-only" }) },
    /on hold.*the database is behind/,
    /run "storage-node rebuild"/,
  ],
  [
    "database",
    { node: nodeFacts({ database: down("the database cannot be reached: ECONNREFUSED") }) },
    /cannot be reached: ECONNREFUSED \(since 2026-11-26T01:00:00Z\); meanwhile exports stay/,
    /start PostgreSQL/,
  ],
  [
    "lock",
    { node: nodeFacts({ lock: down("another agent holds /run/spdk.sock.agent") }) },
    /another agent holds/,
    /ask the agent that has the lock/,
  ],
  [
    "lease",
    { node: nodeFacts({ lease: down("the lease is held by other/1/x") }) },
    /does not lead the node since .*held by other/,
    /ask the agent that has the lease/,
  ],
  [
    "given up",
    { view: { row: volumeRow({ failed: true, lastError: "lvol X is thick" }) } },
    /given up: lvol X is thick/,
    /AllowHost or RevokeHost/,
  ],
  [
    "target",
    { node: nodeFacts({ target: TARGET_DOWN }), view: AWAY },
    /does not answer at \/run\/spdk.sock since 2026-11-26T01:00:00Z: ECONNREFUSED/,
    /start the target/,
  ],
  [
    "another node's target",
    {
      node: nodeFacts({ target: { ...TARGET_DOWN, answers: true, reason: "belongs to node-2" } }),
      view: AWAY,
    },
    /answers but is not used: belongs to node-2/,
    /STORAGE_NODE_SPDK_SOCKET/,
  ],
  [
    "a target that hangs",
    { node: nodeFacts({ target: { ...nodeFacts().target, unresponsive: true } }) },
    /takes requests and does not answer them/,
    /see whether it hangs/,
  ],
  [
    "disk",
    {
      diskState: "MISSING",
      disk: diskRow({ state: "MISSING", stateReason: "no PCI function at 0000:01:00.0" }),
      view: NO_DISK,
    },
    /its disk SERIAL1 \(.*\) is MISSING: no PCI function at 0000:01:00.0 \(last seen at 0000:01:00.0/,
    /put the drive with serial SERIAL1 back/,
  ],
  [
    "free space",
    { view: { ...NEVER_MADE, wait: NOT_ZEROED } },
    /free clusters of its disk may hold old bytes/,
    /call ZeroFreeSpace/,
  ],
  [
    "no room for a thick volume",
    {
      freeClusters: 2n,
      view: { ...NEVER_MADE, row: { ...NEVER_MADE.row, thin: false } },
    },
    /has 2 of 255 clusters free \(8 MiB of 1020 MiB\), and the thick volume needs 3 \(12 MiB\)/,
    /make room/,
  ],
  [
    "no room for a thin volume's writes",
    { freeClusters: 0n },
    /has 0 of 255 clusters free .* thin and has 1 of its 3/,
    /make room/,
  ],
  [
    "clusters that are being zeroed",
    { freeClusters: 0n, disk: diskRow({ freeSpace: "UNKNOWN", pendingOp: ZEROES }) },
    /its free clusters are held while they are zeroed/,
    /wait: .* no volume has to be deleted/,
  ],
  [
    "data",
    { view: GONE },
    new RegExp(`its lvol ${UUID} on disk SERIAL1 .* was there and is gone`),
    new RegExp(`Delete {"lvolId": "${VOLUME}"}`),
  ],
  [
    "somebody else's subsystem",
    { view: { observed: withChanged({ serialNumber: "OTHER" }) } },
    /serial number OTHER: this agent did not create it/,
    /nvmf_delete_subsystem/,
  ],
  [
    "somebody else's namespace",
    {
      view: {
        observed: withChanged({ namespaces: [{ nsid: 1, bdevName: "x", uuid: "y" }] }),
      },
    },
    /shows x as y/,
    /nvmf_subsystem_remove_ns/,
  ],
  [
    "address",
    { view: { listenAddresses: [ELSEWHERE] } },
    /192.0.2.1 is not an address of this machine \(it has 127.0.0.1, 198.51.100.7\)/,
    /STORAGE_NODE_EXPORT_ADDR.*ip address add 192.0.2.1/,
  ],
  [
    "port",
    {
      view: {
        row: volumeRow({ lastError: "nvmf_subsystem_add_listener answered -32602 (…)" }),
        observed: withChanged({ listeners: [] }),
      },
    },
    /refuses to listen on TCP 127.0.0.1:4420/,
    /ss -ltnp "sport = :4420"/,
  ],
  [
    "rebuilt without hosts",
    { view: { row: volumeRow({ unconfirmed: true, hosts: [] }) } },
    /was rebuilt from its disk/,
    /call AllowHost/,
  ],
  [
    "hosts",
    {
      view: {
        row: volumeRow({ hosts: [] }),
        observed: withChanged({ hosts: [] }),
      },
    },
    /no host may connect to it/,
    new RegExp(`call AllowHost {"lvolId": "${VOLUME}"`),
  ],
];

describe("the summary of an explanation", () => {
  it.each(CAUSES)("names the cause and the cure: %s", (_name, change, cause, cure) => {
    const [said, ...cures] = explainLvol(lvolFacts(change)).summary.split("; cure: ");
    expect(said).toMatch(cause);
    expect(cures.join("")).toMatch(cure);
  });

  it("says to wait while the store of its disk is being loaded, and blames no target of a disk", () => {
    const disk = diskRow({ transport: "TCP", address: "192.0.2.1:4420" });
    const loading = { view: { diskReady: false }, disk, diskState: "CLAIMING" } as const;
    const { summary } = explainLvol(lvolFacts({ ...loading, diskStep: true }));
    expect(summary).toMatch(/is being attached, or its store loaded; cure: wait/);
    expect(explainLvol(lvolFacts(loading)).summary).toMatch(/make its target answer at/);
  });

  it("names the database that gives no answer, and since when it does once", () => {
    const reason = "no answer since 2026-11-26T01:00:00.123Z";
    const { summary } = explainLvol(lvolFacts({ node: nodeFacts({ database: down(reason) }) }));
    expect(summary).toMatch(
      /: the database gives no answer since 2026-11-26T01:00:00.123Z; meanwhile/,
    );
  });

  it("names the cause that the others depend on, where several apply", () => {
    const view = { ...AWAY, listenAddresses: [ELSEWHERE], row: volumeRow({ hosts: [] }) };
    const target = TARGET_DOWN;
    const all = { target, hold: "behind", database: down("away"), lease: down("lapsed") };
    const wrong = [/on hold/, /away \(since/, /does not lead/, /does not answer at/];
    const keys = ["hold", "database", "lease", "target"] as const;
    for (const [at, words] of wrong.entries()) {
      const left = Object.fromEntries(keys.slice(at).map((key) => [key, all[key]]));
      expect(explainLvol(lvolFacts({ node: nodeFacts(left), view })).summary).toMatch(words);
    }
    const back = { ...view, targetConnected: true };
    const said = explainLvol(lvolFacts({ view: back })).summary;
    expect(said).toMatch(/192.0.2.1 is not an address/);
  });

  it("says when a deleted volume was deleted, and that its absence was requested", () => {
    const row = volumeRow({ deleteRequestedTime: NOW, deleteTime: NOW, exported: false });
    const absent = { kind: "absent" } as const;
    const observed = observedVolume({ lvol: absent, subsystem: absent });
    const { summary, checks, nextStep } = explainLvol(lvolFacts({ view: { row, observed } }));
    expect(summary).toContain("is DELETED: it was deleted at 2026-11-26T02:00:00Z");
    expect(
      checks.slice(1, 5).map(({ evidence }) => evidence.includes("as requested by its deletion")),
    ).toEqual([true, true, true, true]);
    expect(nextStep).toBe("nothing: its deletion is complete");
  });

  it("says what delays a deletion", () => {
    const row = volumeRow({ deleteRequestedTime: NOW, lastError: `still in use by ${HOST}` });
    expect(explainLvol(lvolFacts({ view: { row } })).summary).toMatch(
      new RegExp(`is DELETING: its deletion was asked for .*still in use by ${HOST}`),
    );
  });

  it("says the next step of a volume that is being created, where no cause applies", () => {
    const steps = [{ loop: "provision", words: "create-lvol: make it", allowed: true }];
    const said = explainLvol(lvolFacts({ steps, view: NEVER_MADE }));
    expect(said.summary).toMatch(/is CREATING: nothing stands in the way; next step: provision/);
  });
});

describe("the next step of an explanation", () => {
  const steps = [{ loop: "export", words: "add-namespace: attach it", allowed: false }];
  const next = (change: Parameters<typeof lvolFacts>[0]) =>
    explainLvol(lvolFacts({ steps, ...change })).nextStep;

  it("says why it is not taken now", () => {
    const database = down("away");
    expect(next({ node: nodeFacts({ hold: "behind", writeMode: "read-only" }) })).toBe(
      "export: add-namespace: attach it (not now: the node is on hold)",
    );
    expect(next({ node: nodeFacts({ database, writeMode: "restore-only" }) })).toContain(
      "(not now: the database cannot be reached; only exports are restored)",
    );
    expect(next({ node: nodeFacts({ database, writeMode: "read-only" }) })).toContain(
      "(not now: the database cannot be reached)",
    );
    expect(next({ node: nodeFacts({ writeMode: "read-only" }) })).toContain(
      "(not now: this agent does not lead the node)",
    );
  });

  it("names the time of the next attempt until it has passed", () => {
    const later = new Date(NOW.getTime() + 5_000);
    const row = volumeRow({ lastError: "x", attempt: 3, nextTryTime: later, exported: false });
    const observed = withChanged({ namespaces: [] });
    const facts = lvolFacts({ steps, view: { row, observed } });
    const said = explainLvol(facts);
    expect(said.nextTryTime).toEqual(later);
    expect(said.nextStep).toContain("; not before 2026-11-26T02:00:05Z");
    expect(said.checks[5]?.evidence).toBe("x (3 times); tried again at 2026-11-26T02:00:05Z");
    const passed = { ...facts, node: nodeFacts({ now: new Date(later.getTime() + 1) }) };
    expect(explainLvol(passed).nextTryTime).toBeUndefined();
  });

  it("says that a step is under way", () => {
    expect(next({ inFlight: true, steps: [] })).toBe("a step is under way");
    expect(next({ inFlight: true })).toMatch(/^under way: export: /);
  });
});

describe("the last error of an explanation", () => {
  it("is the loop's where the database cannot be reached and the row lacks it", () => {
    const change = { loopError: "it failed", view: NO_DISK };
    expect(explainLvol(lvolFacts(change)).lastError).toBeUndefined();
    const node = nodeFacts({ database: down("away") });
    expect(explainLvol(lvolFacts({ ...change, node })).lastError).toBe("it failed");
  });
});

describe("a volume that is to grow", () => {
  const small = observedVolume({ lvol: { ...LVOL, thin: false }, subsystem: SUBSYSTEM });
  const row = volumeRow({ promisedBytes: 24n * MIB, thin: false });
  const noSpace = "bdev_lvol_resize answered -32602 (No space left on device)";
  const failing = (message: string) => ({
    "resize/resize-lvol": { attempt: 1, message, nextTryTime: NOW },
  });

  it("needs room if it is thick: how much, and who has it", () => {
    const view = { row, observed: small, failures: failing(noSpace) };
    const { summary, checks } = explainLvol(lvolFacts({ freeClusters: 2n, view }));
    expect(summary).toContain("is RESIZING");
    expect(summary).toContain("has 2 of 255 clusters free");
    expect(summary).toContain("the thick volume needs 3 more (12 MiB)");
    expect(checks[1]?.answer).toBe("NO");
    // The target's answer counts where there is no newer count.
    const unknown = explainLvol(lvolFacts({ freeClusters: undefined, view }));
    expect(unknown.summary).toContain("needs 3 more");
    const roomy = explainLvol(lvolFacts({ freeClusters: 3n, view }));
    expect(roomy.summary).not.toContain("needs 3 more");
  });

  it("waits for zeroed free space", () => {
    const view = { row, observed: small, wait: NOT_ZEROED };
    const { summary, nextStep } = explainLvol(lvolFacts({ view }));
    expect(summary).toMatch(/may hold old bytes; cure: call ZeroFreeSpace/);
    expect(nextStep).toBe("nothing: waits for the free space to be zeroed");
  });

  it("waits for a newer target if it has a snapshot", () => {
    const view = { row, observed: small, failures: failing("TARGET_TOO_OLD: 24.01 dies") };
    const { summary } = explainLvol(lvolFacts({ view }));
    expect(summary).toMatch(/TARGET_TOO_OLD: 24.01 dies; cure: upgrade/);
  });
});

const anything = fc.record({
  connected: fc.boolean(),
  diskReady: fc.boolean(),
  lvol: fc.constantFrom(undefined, LVOL, { kind: "absent" } as const),
  subsystem: fc.constantFrom(undefined, SUBSYSTEM, { kind: "absent" } as const, {
    ...SUBSYSTEM,
    listeners: [],
    namespaces: [],
    hosts: [],
  }),
  row: fc.record({
    lvolUuid: fc.constantFrom(undefined, UUID),
    hosts: fc.constantFrom([], [HOST]),
    unconfirmed: fc.boolean(),
    failed: fc.boolean(),
    deleteRequestedTime: fc.constantFrom(undefined, NOW),
    lastError: fc.constantFrom(undefined, "x"),
    promisedBytes: fc.constantFrom(12n * MIB, 16n * MIB),
  }),
  thereIsDisk: fc.boolean(),
  free: fc.constantFrom(undefined, 0n, 100n),
});

describe("any explanation", () => {
  it("has six answers, evidence for each, and a remedy exactly where the answer is not YES", () => {
    fc.assert(
      fc.property(anything, ({ connected, diskReady, lvol, subsystem, row, thereIsDisk, free }) => {
        const observed = connected ? observedVolume({ lvol, subsystem }) : AWAY.observed;
        const facts = lvolFacts({
          node: nodeFacts(connected ? {} : { target: TARGET_DOWN }),
          disk: thereIsDisk ? diskRow() : undefined,
          freeClusters: free,
          view: {
            row: volumeRow(row),
            observed,
            targetConnected: connected,
            diskReady: connected && diskReady,
          },
        });
        const { checks, summary, nextStep } = explainLvol(facts);
        expect(checks).toHaveLength(6);
        expect(nextStep).not.toBe("");
        const deleting = row.deleteRequestedTime !== undefined;
        for (const { answer, evidence, remedy } of checks) {
          expect(evidence).not.toBe("");
          if (answer === "YES") expect(remedy).toBe("");
          else if (!deleting) expect(remedy).not.toBe("");
        }
        const [, onLvol, onSubsystem] = checks;
        if (observed.lvol === undefined) expect(onLvol?.answer).toBe("UNKNOWN");
        if (observed.subsystem === undefined) expect(onSubsystem?.answer).toBe("UNKNOWN");
        const allYes = checks.every(({ answer }) => answer === "YES");
        if (allYes) expect(summary).toMatch(/ is UP: /);
      }),
      { numRuns: 2_000 },
    );
  });
});
