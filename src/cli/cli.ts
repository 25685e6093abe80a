// The table of commands. Each command's module is imported only when it is run, so that `serve`
// never loads the simulator.
import { parseArguments } from "./arguments.ts";
import { EXIT_FAILED, EXIT_USAGE, messageOf, type Io } from "./io.ts";

const SERVE = `usage: storage-node serve

  Runs the agent of this node until SIGTERM or SIGINT, as root, with its settings from the environment:
  DATABASE_URL, STORAGE_NODE_SPDK_SOCKET, STORAGE_NODE_EXPORT_ADDR and the others of
  docs/configuration.md. Before that, "storage-node migrate" once, and "storage-node doctor".
  --help

  Exit code 78 if a setting is not valid.`;

const MIGRATE = `usage: storage-node migrate

  Brings the schema of the database DATABASE_URL up to date; once for the whole fleet and each release.
  --help`;

const USAGE = `usage: storage-node COMMAND

  serve      run the agent of this node (configured by the environment, see docs/configuration.md)
  migrate    bring the database's schema up to date
  status     the node on one screen: components, disks, capacity, loops, errors ("status --help")
  explain    why a volume or a disk is not in its desired state, and what to do ("explain --help")
  disk       list, admit, release, wipe and find disks: each step of replacing one ("disk --help")
  delete     delete a volume ("delete --help")
  doctor     what this node lacks, and the command that cures it ("doctor --help")
  rebuild    recreate rows that the database lost from what is on the target ("rebuild --help")
  confirm-hosts
             let hosts connect again that an older database names ("confirm-hosts --help")
  demo       a whole node on this machine: database, simulated disks, simulated target, agent
  sim        a simulated SPDK target on a Unix socket ("sim --help" lists its options)

  --help, --version`;

/** Runs one command; resolves with the exit code, 1 for whatever the command has not foreseen. */
export async function run(args: readonly string[], io: Io): Promise<number> {
  try {
    return await runCommand(args, io);
  } catch (error) {
    // A command is for an operator, who needs what is wrong and not where it was thrown.
    io.stderr(`storage-node ${args[0]}: ${messageOf(error)}`);
    return EXIT_FAILED;
  }
}

async function runCommand([command, ...rest]: readonly string[], io: Io): Promise<number> {
  switch (command) {
    case "serve":
      return noOptions(rest, io, SERVE) ?? (await (await import("./serve.ts")).serve(io));
    case "migrate":
      return (
        noOptions(rest, io, MIGRATE) ?? (await (await import("./migrate.ts")).migrateSchema(io))
      );
    case "status":
      return await (await import("./status.ts")).status(rest, io);
    case "explain":
      return await (await import("./explain.ts")).explain(rest, io);
    case "disk":
      return await (await import("./disk.ts")).disk(rest, io);
    case "delete":
      return await (await import("./delete.ts")).deleteVolume(rest, io);
    case "doctor":
      return await (await import("./doctor.ts")).doctor(rest, io);
    case "rebuild":
      return await (await import("./rebuild.ts")).rebuild(rest, io);
    case "confirm-hosts":
      return await (await import("./confirm-hosts.ts")).confirmHosts(rest, io);
    case "demo":
      return await (await import("./demo.ts")).demo(rest, io);
    case "sim":
      return await (await import("./sim.ts")).runSim(rest, io);
    case "--version":
      io.stdout((await import("../node.ts")).VERSION);
      return 0;
    case "--help":
    case "help":
      io.stdout(USAGE);
      return 0;
    default:
      io.stderr(command === undefined ? USAGE : `unknown command "${command}"\n\n${USAGE}`);
      return EXIT_USAGE;
  }
}

/** An exit code if there is nothing more to do. */
function noOptions(args: readonly string[], io: Io, usage: string): number | undefined {
  try {
    const options = { help: { type: "boolean" } } as const;
    const { values } = parseArguments({ args: [...args], options, allowPositionals: false });
    if (values.help !== true) return undefined;
    io.stdout(usage);
    return 0;
  } catch (error) {
    io.stderr(`${messageOf(error)}\n\n${usage}`);
    return EXIT_USAGE;
  }
}
