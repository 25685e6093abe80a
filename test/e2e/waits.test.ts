// What a volume waits for is in every answer about it, and ends by itself once that is over (model/wait.ts).
import { describe, expect, it } from "vitest";
import type { Lvol } from "../../src/gen/storagenode/v1/lvol.ts";
import { BY_HAND, refusal, until } from "../support/agent.ts";
import { crashScenario } from "../support/crash-scenario.ts";
import { getLvol, idOf, provision, stateOf, zeroFreeSpace } from "../support/volumes.ts";

const SMALL = { sizeBytes: 16n * 1_048_576n };

function conditionOf(lvol: Lvol, type: string) {
  const found = lvol.status?.conditions.find((condition) => condition.type === type);
  return { status: found?.status, reason: found?.reason };
}

describe("a volume that was admitted before its store became UNKNOWN", () => {
  it("is not told to be fine: each answer names the reason, and no error of before", async () => {
    await using scenario = await crashScenario({}, { env: BY_HAND });
    const agent = await scenario.start();
    await agent.ready();
    await scenario.target.kill();
    const wanted = await provision(agent, SMALL, { wait: false });
    await scenario.killAgent();
    const failure = { attempt: 3, message: "an error of before", nextTryTime: new Date() };
    const failures = JSON.stringify({ "provision/create-lvol": failure });
    await scenario.query(
      `update lvol set failures = '${failures}', last_error = 'an error of before', attempt = 3`,
    );
    await scenario.query("update disk set free_space = 'UNKNOWN'");
    await scenario.target.restart();
    const next = await scenario.start();
    await next.ready();
    const id = idOf(wanted);
    await until("the old error is gone", async () => {
      return (await getLvol(next, id)).status?.lastError === "";
    });
    // The same call once more, as a scheduler repeats it.
    const again = await provision(next, SMALL, { id, wait: false });
    expect(stateOf(again)).toBe("LVOL_STATE_CREATING");
    const reason = "FREE_SPACE_NOT_ZEROED";
    expect(conditionOf(again, "DiskReady")).toEqual({ status: "CONDITION_STATUS_FALSE", reason });
    expect(conditionOf(again, "LvolCreated")).toEqual({ status: "CONDITION_STATUS_FALSE", reason });
    expect(conditionOf(again, "Waiting")).toEqual({ status: "CONDITION_STATUS_TRUE", reason });
    expect((await refusal(provision(next, SMALL))).message).toContain("call ZeroFreeSpace");
    await zeroFreeSpace(next);
    await until("the volume is UP", async () => {
      return stateOf(await getLvol(next, id)) === "LVOL_STATE_UP";
    });
    expect(conditionOf(await getLvol(next, id), "Waiting").status).toBeUndefined();
  });
});
