// Who is connected is asked rarely and by name, and remembered beyond a restart of the target.
import { describe, expect, it } from "vitest";
import { ConnectedHosts } from "../../../src/reconcile/target/connected-hosts.ts";
import { Rows } from "../../../src/store/rows.ts";
import { lvolRow } from "../../support/model.ts";

const [A, B] = ["aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000001"];

/** A target with hosts on some exports, that counts what it is asked. */
function scenario() {
  const rows = new Rows();
  rows.apply({ lvols: [A, B].map((id) => lvolRow({ id, nqn: nqnOf(id), exported: true })) });
  const target = { connected: new Set<string>(), ever: 0, asked: [] as string[] };
  let nowMs = 0;
  const hosts = new ConnectedHosts({
    rows,
    now: () => nowMs,
    spdk: {
      nvmfGetStats: () =>
        Promise.resolve({ adminQpairs: target.ever, currentAdminQpairs: target.connected.size }),
      nvmfSubsystemGetControllers: (nqn) => {
        target.asked.push(nqn);
        if (!target.connected.has(nqn)) return Promise.resolve([]);
        return Promise.resolve([{ cntlid: 1, hostNqn: "nqn.h", hostId: "", numIoQpairs: 1 }]);
      },
    },
  });
  return {
    hosts,
    target,
    connect: (id: string) => {
      target.connected.add(nqnOf(id));
      target.ever += 1;
    },
    pass: (ms: number) => (nowMs += ms),
  };
}

const nqnOf = (id: string) => `nqn.2026-11.io.test:${id}`;

describe("connected hosts", () => {
  it("are not asked for while nobody is connected", async () => {
    const { hosts, target } = scenario();
    await hosts.refresh();
    await hosts.refresh();
    expect(target.asked).toEqual([]);
    expect(hosts.has(A)).toBe(false);
  });

  it("are asked for by name once somebody connected, and not again while nothing changes", async () => {
    const { hosts, target, connect, pass } = scenario();
    connect(B);
    await hosts.refresh();
    expect([hosts.has(A), hosts.has(B)]).toEqual([false, true]);
    pass(600_000);
    await hosts.refresh();
    expect(target.asked).toHaveLength(2);
  });

  it("are asked for once a minute at most, however many come and go", async () => {
    const { hosts, target, connect, pass } = scenario();
    connect(A);
    await hosts.refresh();
    connect(B);
    await hosts.refresh();
    expect(target.asked).toHaveLength(2);
    expect(hosts.has(B)).toBe(false);
    pass(60_000);
    await hosts.refresh();
    expect(target.asked).toHaveLength(4);
    expect(hosts.has(B)).toBe(true);
  });

  it("are remembered while they come back to a target that restarted", async () => {
    const { hosts, target, connect, pass } = scenario();
    connect(A);
    await hosts.refresh();
    target.connected.clear();
    target.ever = 0;
    hosts.begin();
    await hosts.refresh();
    expect(hosts.has(A)).toBe(true);
    pass(60_000);
    await hosts.refresh();
    expect(hosts.has(A)).toBe(false);
  });
});
