// Drives that the simulated target attaches through a simulated kernel: what is attached is what the
// kernel has at the address now.
import { describe, expect, it } from "vitest";
import { SpdkError } from "../../../src/spdk/errors.ts";
import { closeGroup, openGroup } from "../../../src/sim/kernel/vfio-users.ts";
import { A, B, claim, drive, kernelScenario, MIB } from "../../support/kernel-scenario.ts";
import { REAL_SOCKET, startTarget, type SimulatedDisk } from "../../support/target.ts";

const disk = (serial: string, traddr: string, nsid = 1): SimulatedDisk => ({
  serial,
  model: "Simulated NVMe",
  nsid,
  block_size: 512,
  num_blocks: Number((64n * MIB) / 512n),
  trtype: "PCIe",
  traddr,
});

async function scenario() {
  const stack = new AsyncDisposableStack();
  const two = {
    ...drive(A, "SIMA", "2"),
    namespaces: [{ sizeBytes: 64n * MIB }, { sizeBytes: 64n * MIB }],
  };
  const kernel = stack.use(await kernelScenario({ drives: [two, drive(B, "SIMB", "3")] }));
  const disks = [disk("SIMA", A), disk("SIMA", A, 2), disk("SIMB", B), disk("SIMC", "none")];
  const target = stack.use(await startTarget({ drives: { root: kernel.root, disks } }));
  const attach = (name: string, traddr: string) =>
    target.spdk.bdevNvmeAttachController({ name, trtype: "PCIe", traddr });
  const serialOf = async (name: string) => {
    const bdev = await target.spdk.getBdev(name);
    return bdev?.kind === "nvme" ? bdev.paths[0]?.serialNumber.trim() : undefined;
  };
  return { ...kernel, target, attach, serialOf, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

describe.skipIf(REAL_SOCKET !== undefined)("a drive of the simulated target", () => {
  it("has all its namespaces, which go together", async () => {
    await using setup = await scenario();
    expect(await claim(setup.kernel, A)).toMatchObject({ ok: true });
    await setup.attach("c", A);
    expect(await setup.target.spdk.getBdev("cn2")).toMatchObject({ paths: [{ nsid: 2 }] });
    expect(await setup.serialOf("cn1")).toBe("SIMA");
    await setup.target.spdk.bdevNvmeDetachController("c");
    expect(await setup.target.spdk.getBdev("cn1")).toBeUndefined();
    expect(await setup.target.spdk.getBdev("cn2")).toBeUndefined();
  });

  it("is the one in the slot now", async () => {
    await using setup = await scenario();
    await setup.kernel.unplug(A);
    await setup.kernel.plugIn(drive(A, "SIMC", "2"));
    expect(await claim(setup.kernel, A)).toMatchObject({ ok: true });
    await setup.attach("c", A);
    expect(await setup.serialOf("cn1")).toBe("SIMC");
  });

  it("cannot be attached while another process has its group open", async () => {
    await using setup = await scenario();
    expect(await claim(setup.kernel, B)).toMatchObject({ ok: true });
    openGroup(setup.root, "3", { pid: process.pid, command: "qemu" });
    await expect(setup.attach("c", B)).rejects.toThrow(SpdkError);
    closeGroup(setup.root, "3", process.pid);
    await setup.attach("c", B);
    const pid = setup.target.pid() ?? 0;
    const open = async () =>
      await Promise.all(
        (await setup.kernel.list(`/proc/${pid}/fd`)).map((name) =>
          setup.kernel.readLink(`/proc/${pid}/fd/${name}`),
        ),
      );
    expect(await open()).toEqual(["/dev/vfio/3"]);
    await setup.target.spdk.bdevNvmeDetachController("c");
    expect(await open()).toEqual([]);
  });
});
