// `storage-node doctor`: what this node lacks, with the command that cures it. It needs no agent and changes
// nothing.
import { parseArgs } from "node:util";
import { labelled, widthOf } from "./client/text.ts";
import { EXIT_FAILED, EXIT_USAGE, messageOf, type Io } from "./io.ts";
import { examine } from "../doctor/doctor.ts";
import type { SetupCheck } from "../explain/setup.ts";

const USAGE = `usage: storage-node doctor [--output text|json]

  Checks settings, state folder, lock file, database, target, hugepages, IOMMU, vfio-pci, limits, NUMA
  and allow list of this node, and prints what is missing and the command that cures it. It reads only,
  and runs beside an agent or without one. Run it as the user and with the environment of the agent.

  --output json   [{"name": ..., "verdict": "OK|MISSING|ADVICE|UNKNOWN", "found": ..., "cure": ...}]
  --help

  Exit code 0 if nothing is missing, 1 if something is.`;

const LABEL = 24;

export async function doctor(args: readonly string[], io: Io): Promise<number> {
  let json: boolean;
  try {
    const { values } = parseArgs({
      args: [...args],
      options: { output: { type: "string" }, help: { type: "boolean" } },
    });
    if (values.help === true) {
      io.stdout(USAGE);
      return 0;
    }
    const { output = "text" } = values;
    if (output !== "text" && output !== "json") throw new Error("--output must be text or json");
    json = output === "json";
  } catch (error) {
    io.stderr(`${messageOf(error)}\n\n${USAGE}`);
    return EXIT_USAGE;
  }
  const checks = await examine(io.env);
  const lacking = checks.filter(({ verdict }) => verdict === "MISSING");
  io.stdout(json ? JSON.stringify(checks, undefined, 2) : textOf(checks, lacking.length, io));
  return lacking.length === 0 ? 0 : EXIT_FAILED;
}

function textOf(checks: readonly SetupCheck[], lacking: number, { columns }: Io): string {
  const layout = { width: widthOf(columns?.()), label: LABEL };
  const lines = checks.flatMap(({ name, verdict, found, cure }) => [
    labelled(`${WORD[verdict].padEnd(9)}${name}`, found, layout),
    ...(cure === "" ? [] : [labelled("", `-> ${cure}`, layout)]),
  ]);
  const summary =
    lacking === 0 ? "nothing is missing" : `${lacking} of ${checks.length} are missing`;
  return [...lines, "", summary].join("\n");
}

const WORD = { OK: "ok", MISSING: "MISSING", ADVICE: "advice", UNKNOWN: "unknown" } as const;
