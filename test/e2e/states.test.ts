// What every RPC answers in every state of what it names, without a wait. docs/states.md has the answers as tables,
// which this test compares; `UPDATE=1 npm test states` writes them.
import { readFile, writeFile } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import { DISK_STATES, NODE_STATES } from "../support/disk-states.ts";
import {
  DISK_LINES,
  METHODS,
  NODE_LINES,
  SNAPSHOT_LINES,
  VOLUME_LINES,
} from "../support/state-lines.ts";
import { markdown, tableOf, withTable, type Column, type Line } from "../support/state-table.ts";
import { askedIn, type States } from "../support/state-world.ts";
import { SNAPSHOT_STATES, VOLUME_STATES } from "../support/volume-states.ts";

const DOCUMENT = new URL("../../docs/states.md", import.meta.url);
const UPDATE = process.env["UPDATE"] === "1";

/** Without what pads its cells. */
const compact = (table: string) => table.replaceAll(/ +/g, " ").replaceAll(/-+/g, "-");

type Table = {
  readonly titles: readonly string[];
  readonly lines: readonly { readonly name: string }[];
  /** Brings objects into a state, and calls every line. */
  readonly ask: readonly (readonly [state: string, ask: () => Promise<Column>])[];
};

function tableFor<Subject>(
  first: string,
  lines: readonly Line<Subject>[],
  states: States<Subject>,
): Table {
  const ask = Object.entries(states).map(
    ([name, state]) => [name, () => askedIn(state, lines)] as const,
  );
  return { titles: [first, ...Object.keys(states)], lines, ask };
}

describe.each<readonly [heading: string, table: Table]>([
  ["Volumes", tableFor("RPC of a volume", VOLUME_LINES, VOLUME_STATES)],
  ["Snapshots", tableFor("RPC of a snapshot", SNAPSHOT_LINES, SNAPSHOT_STATES)],
  ["Disks", tableFor("RPC of a disk", DISK_LINES, DISK_STATES)],
  ["The node", tableFor("RPC", NODE_LINES, NODE_STATES)],
])("%s", (heading, { titles, lines, ask }) => {
  const columns = new Map<string, Column>();

  it.concurrent.each(ask)("%s: each call is answered, a repeat likewise", async (state, asked) => {
    const column = await asked();
    columns.set(state, column);
    for (const cell of column.values()) {
      expect(cell).toMatch(/^OK|^`[A-Z_]+` `[A-Z_]+`$/);
      expect(cell).not.toMatch(/INTERNAL|UNKNOWN/);
    }
  });

  it("the answers are those of docs/states.md", async () => {
    const table = markdown(titles, lines, columns);
    const text = await readFile(DOCUMENT, "utf8");
    if (UPDATE) await writeFile(DOCUMENT, withTable(text, heading, table));
    else expect(compact(tableOf(text, heading))).toEqual(compact(table));
  });
});

it("every method of the service is in a table", () => {
  const lines = [...VOLUME_LINES, ...SNAPSHOT_LINES, ...DISK_LINES, ...NODE_LINES];
  const named = new Set(lines.map(({ name }) => /^\w+/.exec(name)?.[0]));
  expect(named).toEqual(new Set(METHODS));
});
