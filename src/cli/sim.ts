// `storage-node sim`: a simulated SPDK target on a Unix socket. Exit code 0 on a signal, 70 after a
// request that aborts a real target.
import { parseArguments } from "./arguments.ts";
import { readFileSync } from "node:fs";
import { z } from "zod";
import { EXIT_USAGE, messageOf, type Io } from "./io.ts";
import { runSimulator } from "../sim/simulator.ts";
import { Disk } from "../sim/target/media.ts";
import { releaseNamed, RELEASES } from "../sim/target/release.ts";
import { lockSocket } from "../sim/target/socket-lock.ts";

const USAGE = `usage: storage-node sim --socket PATH --disks DISKS.json [options]

  --state DIR          keep the content of the disks in DIR; without it a kill loses it
  --root DIR           a simulated kernel: PCIe functions attach only while vfio-pci holds them;
                       "/": the running kernel
  --slots DIR          with --root /: a file for each PCI address whose drive was replaced, with its id
  --poll-ms N          milliseconds between two polls, default 4
  --release R          behave like release 24.01, 25.05 or 26.09 (default)
  --max-subsystems N   limit of subsystems, discovery included, default 1024
  --strict             abort on requests that an agent must never send
  --config FILE        replay a saved configuration before the socket accepts
  --control PATH       a second socket for tests (docs/simulator.md)
  --help`;

const diskEntry = z.strictObject({
  id: z.string().min(1).optional(),
  serial: z.string().min(1),
  nsid: z.int().positive().default(1),
  model: z.string().default("SIMULATED NVME"),
  block_size: z.int().positive(),
  num_blocks: z.int().positive(),
  trtype: z.string().default("PCIe"),
  traddr: z.string().min(1),
  trsvcid: z.string().optional(),
  subnqn: z.string().optional(),
  prefill: z.int().min(0).max(255).default(0),
  unmap: z.enum(["keeps", "zeroes"]).default("keeps"),
});

const count = z.coerce.number().int().positive();

const options = z.object({
  socket: z.string({ error: "--socket PATH is missing" }),
  disks: z.string({ error: "--disks DISKS.json is missing" }),
  state: z.string().optional(),
  root: z.string().optional(),
  slots: z.string().optional(),
  "poll-ms": count.default(4),
  "max-subsystems": count.default(1_024),
  release: z.enum(RELEASES, { error: `must be one of ${RELEASES.join(", ")}` }).default("26.09"),
  strict: z.boolean().default(false),
  config: z.string().optional(),
  control: z.string().optional(),
});

type Options = z.output<typeof options>;

export async function runSim(args: readonly string[], io: Io): Promise<number> {
  const asked = readOptions(args, io);
  if (typeof asked === "number") return asked;
  let disks: readonly Disk[];
  try {
    disks = readDisks(asked);
  } catch (error) {
    io.stderr(`sim: --disks ${asked.disks}: ${messageOf(error)}`);
    return EXIT_USAGE;
  }
  const lock = await lockSocket(asked.socket);
  if ("heldBy" in lock) {
    io.stderr(`sim: ${lock.heldBy} already serves ${asked.socket}`);
    return 1;
  }
  using stack = new DisposableStack();
  stack.use(lock);
  const { signal, stdout, stderr } = io;
  return await runSimulator({
    socketPath: asked.socket,
    controlPath: asked.control,
    root: asked.root,
    slots: asked.slots,
    pollMs: asked["poll-ms"],
    maxSubsystems: asked["max-subsystems"],
    release: releaseNamed(asked.release),
    strict: asked.strict,
    configPath: asked.config,
    disks,
    signal,
    onListening: () => stdout(`sim: ${disks.length} disks behind ${asked.socket}`),
    onAbort: (why) => stderr(`sim: ABORT: ${why}`),
  });
}

function readOptions(args: readonly string[], io: Io): Options | number {
  try {
    const { values } = parseArguments({
      args: [...args],
      allowPositionals: false,
      options: {
        socket: { type: "string" },
        disks: { type: "string" },
        state: { type: "string" },
        root: { type: "string" },
        slots: { type: "string" },
        "poll-ms": { type: "string" },
        "max-subsystems": { type: "string" },
        release: { type: "string" },
        strict: { type: "boolean" },
        config: { type: "string" },
        control: { type: "string" },
        help: { type: "boolean" },
      },
    });
    if (values.help === true) {
      io.stdout(USAGE);
      return 0;
    }
    return options.parse(values);
  } catch (error) {
    const why =
      error instanceof z.ZodError
        ? error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`).join("\n")
        : messageOf(error);
    io.stderr(`${why}\n\n${USAGE}`);
    return EXIT_USAGE;
  }
}

function readDisks({ disks, state }: Options): readonly Disk[] {
  const entries = z.array(diskEntry).parse(JSON.parse(readFileSync(disks, "utf8")));
  return entries.map(
    (entry) =>
      new Disk(
        {
          id: entry.id ?? entry.serial,
          serial: entry.serial,
          nsid: entry.nsid,
          model: entry.model,
          blockSize: entry.block_size,
          numBlocks: entry.num_blocks,
          trtype: entry.trtype,
          traddr: entry.traddr,
          trsvcid: entry.trsvcid,
          subnqn: entry.subnqn,
          prefill: entry.prefill,
          unmap: entry.unmap,
        },
        state,
      ),
  );
}
