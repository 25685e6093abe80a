// Health pages as a test sets them: what SPDK makes of a page, and of a controller that gives none.
import { join } from "node:path";
import { expect, it } from "vitest";
import { spdkClient, type SpdkClient } from "../../../src/spdk/client.ts";
import { SpdkConnection } from "../../../src/spdk/connection.ts";
import { Control } from "../../support/control.ts";
import { simulator, type Simulator } from "./simulator.ts";

const ATTACH = {
  name: "nvme0",
  trtype: "TCP",
  traddr: "127.0.0.1",
  trsvcid: "9000",
  subnqn: "nqn.2026-11.io.test:disk0",
} as const;

async function attached({ socketPath }: Simulator): Promise<SpdkClient & AsyncDisposable> {
  const connection = new SpdkConnection({ path: socketPath, mayMutate: () => true });
  const client = spdkClient(connection);
  await new Promise<void>((resolve) => {
    if (connection.connected) resolve();
    else connection.onConnected(() => resolve());
  });
  await client.bdevNvmeAttachController(ATTACH);
  return { ...client, [Symbol.asyncDispose]: () => connection[Symbol.asyncDispose]() };
}

it("a health page has what was set, exactly, also after a restart of the target", async () => {
  await using sim = await simulator();
  {
    await using control = await Control.open(join(sim.folder, "control"));
    const errors = { media_errors: "36893488147419103232", num_err_log_entries: 5 };
    await control.ask({ op: "health", temperature_kelvin: 0, percentage_used: 101, ...errors });
  }
  await sim.restart();
  await using client = await attached(sim);
  expect(await client.bdevNvmeGetControllerHealthInfo("nvme0")).toMatchObject({
    temperatureCelsius: undefined,
    percentageUsed: 101,
    mediaErrors: 2n ** 65n,
    errorLogEntries: 5n,
    availableSparePercentage: 100,
  });
});

it("a failed controller is listed as such and gives no page; one that is reset gives it late", async () => {
  await using sim = await simulator();
  await using control = await Control.open(join(sim.folder, "control"));
  await using client = await attached(sim);
  await control.ask({ op: "health", controller: "failed" });
  expect((await client.getController("nvme0"))?.paths).toMatchObject([{ state: "failed" }]);
  await expect(client.bdevNvmeGetControllerHealthInfo("nvme0")).rejects.toMatchObject({
    code: -32603,
    spdkMessage: "Internal error.",
  });
  await control.ask({ op: "health", controller: "resetting" });
  const page = client.bdevNvmeGetControllerHealthInfo("nvme0");
  // Answered after the page was asked for, and before it comes.
  expect((await client.getController("nvme0"))?.paths).toMatchObject([{ state: "resetting" }]);
  await control.ask({ op: "health", controller: "enabled" });
  expect(await page).toMatchObject({ criticalWarning: 0 });
});
