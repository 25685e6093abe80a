// The lists of connected hosts are read rarely, and kept across a restart of the target.
import { describe, expect, it } from "vitest";
import { ConnectedHosts } from "../../../src/reconcile/target/connected-hosts.ts";
import { Rows } from "../../../src/store/rows.ts";
import { lvolRow } from "../../support/model.ts";

const [A, B] = ["aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000001"];

/** A target with hosts connected to some exports; records which NQNs are queried. */
function scenario() {
  const rows = new Rows();
  rows.apply({ lvols: [A, B].map((id) => lvolRow({ id, nqn: nqnOf(id), exported: true })) });
  const target = { connected: new Set<string>(), total: 0, queried: [] as string[] };
  let nowMs = 0;
  const observed = new Map<string, readonly string[]>();
  const hosts = new ConnectedHosts({
    rows,
    observed: { setConnected: (id, connected) => observed.set(id, connected) },
    now: () => nowMs,
    spdk: {
      nvmfSubsystemGetControllers: (nqn) => {
        target.queried.push(nqn);
        if (!target.connected.has(nqn)) return Promise.resolve([]);
        // One host with two controllers.
        const controller = { hostNqn: "nqn.h", hostId: "", numIoQpairs: 1 };
        return Promise.resolve([1, 2].map((cntlid) => ({ ...controller, cntlid })));
      },
    },
  });
  const stats = () => ({
    adminQpairs: target.total,
    currentAdminQpairs: target.connected.size,
    completedIo: 0n,
  });
  return {
    hosts: {
      has: (id: string) => hosts.has(id),
      begin: () => hosts.begin(),
      refresh: () => hosts.refresh(stats()),
    },
    observed,
    rows,
    target,
    connect: (id: string) => {
      target.connected.add(nqnOf(id));
      target.total += 1;
    },
    advance: (ms: number) => (nowMs += ms),
  };
}

const nqnOf = (id: string) => `nqn.2026-11.io.test:${id}`;

describe("connected hosts", () => {
  it("are not queried while no host is connected", async () => {
    const { hosts, target } = scenario();
    await hosts.refresh();
    await hosts.refresh();
    expect(target.queried).toEqual([]);
    expect(hosts.has(A)).toBe(false);
  });

  it("are queried per export once a host connected, and not again while the count is unchanged", async () => {
    const { hosts, target, connect, advance } = scenario();
    connect(B);
    await hosts.refresh();
    expect([hosts.has(A), hosts.has(B)]).toEqual([false, true]);
    advance(600_000);
    await hosts.refresh();
    expect(target.queried).toHaveLength(2);
  });

  it("are queried once a minute at most, however often the count changes", async () => {
    const { hosts, target, connect, advance } = scenario();
    connect(A);
    await hosts.refresh();
    connect(B);
    await hosts.refresh();
    expect(target.queried).toHaveLength(2);
    expect(hosts.has(B)).toBe(false);
    advance(60_000);
    await hosts.refresh();
    expect(target.queried).toHaveLength(4);
    expect(hosts.has(B)).toBe(true);
  });

  it("are kept while hosts reconnect to a target that restarted", async () => {
    const { hosts, target, connect, advance } = scenario();
    connect(A);
    await hosts.refresh();
    target.connected.clear();
    target.total = 0;
    hosts.begin();
    await hosts.refresh();
    expect(hosts.has(A)).toBe(true);
    advance(60_000);
    await hosts.refresh();
    expect(hosts.has(A)).toBe(false);
  });

  it("are observed for each export, also where there is none", async () => {
    const { hosts, observed, target, connect, advance } = scenario();
    await hosts.refresh();
    expect([observed.get(A), observed.get(B)]).toEqual([[], []]);
    connect(B);
    await hosts.refresh();
    expect([observed.get(A), observed.get(B)]).toEqual([[], ["nqn.h"]]);
    target.connected.clear();
    advance(60_000);
    await hosts.refresh();
    expect([observed.get(A), observed.get(B)]).toEqual([[], []]);
  });

  it("are not observed of a volume that is not exported, or is gone", async () => {
    const { hosts, observed, rows, connect } = scenario();
    const nqn = nqnOf(A);
    const deleteTime = new Date(0);
    rows.apply({
      lvols: [
        lvolRow({ id: A, nqn, exported: false, revision: 2n }),
        lvolRow({ id: B, nqn: nqnOf(B), exported: true, deleteTime, revision: 2n }),
      ],
    });
    connect(A);
    await hosts.refresh();
    expect([...observed.keys()]).toEqual([]);
  });
});
