// A node on which objects are brought into their states, for the tables of docs/states.md, and what can be wrong with
// the node while its objects are as they were.
import { spdkClient, type SpdkClient } from "../../src/spdk/client.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import { until, type TestAgent } from "./agent.ts";
import { crashScenario, type CrashOptions, type CrashScenario } from "./crash-scenario.ts";
import { columnOf, type Column, type Line } from "./state-table.ts";
import { SIZE } from "./state-lines.ts";

export type World = {
  readonly scenario: CrashScenario;
  /** The present agent. */
  readonly agent: () => TestAgent;
  /** What is done with it is done behind the agent's back. */
  readonly spdk: SpdkClient;
  /** What ends with the test. */
  readonly stack: AsyncDisposableStack;
};

export type State<Subject> = {
  readonly options?: CrashOptions;
  /** The agent does not hear of what others do to the target. */
  readonly deaf?: true;
  /** Brings as many objects into the state; no agent runs before. */
  readonly bring: (world: World, count: number) => Promise<readonly Subject[]>;
};

export type States<Subject> = Readonly<Record<string, State<Subject>>>;

/** No request that is held has an effect before the test ends. */
const HELD_MS = 3_600_000;

export async function askedIn<Subject>(
  { options = {}, deaf, bring }: State<Subject>,
  lines: readonly Line<Subject>[],
): Promise<Column> {
  await using stack = new AsyncDisposableStack();
  const scenario = stack.use(await crashScenario({ eventsMs: deaf ? HELD_MS : 20 }, options));
  const { socket: path } = scenario.target;
  const connection = stack.use(new SpdkConnection({ path, mayMutate: () => true }));
  await until("the test is connected to the target", () => connection.connected);
  const { agent } = scenario;
  const subjects = await bring(
    { scenario, agent, spdk: spdkClient(connection), stack },
    lines.length,
  );
  return await columnOf(agent(), lines, subjects);
}

export async function started({ scenario }: World): Promise<TestAgent> {
  const agent = await scenario.start();
  await agent.ready();
  return agent;
}

/** From now on, requests of the method have no effect and no answer; all others have. */
export function hold({ scenario }: World, method: string): void {
  const { gate } = scenario.target.engine();
  gate.addRule({ effect: "slow", method, nth: 1, always: true, ms: HELD_MS });
}

export function diskOf({ node }: TestAgent) {
  const [disk] = [...node.agent.rows.disks()];
  if (disk === undefined) throw new Error("no disk");
  return disk;
}

/** Lvols with these names that no row knows of. Returns their uuids. */
export async function makeLvols(
  { spdk, agent }: World,
  names: readonly string[],
): Promise<readonly string[]> {
  const lvsUuid = diskOf(agent()).lvsUuid ?? "";
  const made = { lvsUuid, sizeBytes: SIZE, thin: true, clearMethod: "none" } as const;
  return await Promise.all(names.map((lvolName) => spdk.bdevLvolCreate({ ...made, lvolName })));
}

/** The controller of the disk is gone, and cannot be attached. */
export async function diskMissing(world: World): Promise<void> {
  const agent = world.agent();
  const method = "bdev_nvme_attach_controller";
  const failure = { code: -19, message: "No such device", half: false };
  const { gate } = world.scenario.target.engine();
  gate.addRule({ effect: "fail", method, nth: 1, always: true, failure });
  await world.spdk.bdevNvmeDetachController(diskOf(agent).controllerName ?? "");
  await until("the disk is not UP any more", () => diskOf(agent).state !== "UP");
}

/** The drive says that it takes no writes any more. */
export async function diskFails({ scenario }: World): Promise<void> {
  await scenario.killAgent();
  const failing = `health = 'FAILED', health_reasons = '["READ_ONLY"]', health_time = now()`;
  await scenario.query(`update disk set ${failing}`);
  const agent = await scenario.start();
  await agent.ready();
}

export async function targetDown({ scenario, agent }: World): Promise<void> {
  await scenario.target.kill();
  await until("the agent has noticed", () => !isWell(agent(), "target"));
}

export async function databaseDown({ scenario, agent }: World): Promise<void> {
  await scenario.database().down();
  await until("the agent has noticed", () => !isWell(agent(), "database"));
}

function isWell({ node }: TestAgent, component: string): boolean {
  return node.agent.components().some(({ name, ok }) => name === component && ok);
}

/** As after a restore of the database: an agent that starts finds the node on hold. */
export async function onHold({ scenario }: World): Promise<void> {
  await scenario.killAgent();
  await scenario.query(`update node set hold = 'restored from a backup'`);
  const { node } = await scenario.start();
  await until("it is on hold and has found its disk", () => {
    if (node.agent.hold() === undefined) return false;
    return [...node.agent.rows.disks()].some((disk) => node.agent.diskReadiness(disk).ready);
  });
}

/** Objects that are UP while something is wrong with the node. */
export function after<Subject>(
  up: State<Subject>["bring"],
  goesWrong: (world: World) => Promise<void>,
  settled: (world: World, subjects: readonly Subject[]) => Promise<void> = async () => {},
): State<Subject> {
  return {
    bring: async (world, count) => {
      const subjects = await up(world, count);
      await goesWrong(world);
      await settled(world, subjects);
      return subjects;
    },
  };
}
