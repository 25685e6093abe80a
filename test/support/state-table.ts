// What each RPC answers about an object in each of its states, as Markdown tables. Each cell is a call over the wire,
// made twice: a repeat has the same answer.
import { status, type ClientReadableStream } from "@grpc/grpc-js";
import { refusal, until, type TestAgent } from "./agent.ts";

/** The cell of a call that was answered or refused. */
export type Cell = string;

/** One line of a table: how an RPC is called for an object. */
export type Line<Subject> = {
  /** The method, and what it is asked if that matters. */
  readonly name: string;
  readonly ask: (agent: TestAgent, subject: Subject) => Promise<Cell>;
};

/** The cells of one column by the names of the lines. */
export type Column = ReadonlyMap<string, Cell>;

/** `OK` and what the answer says, or the code and the reason of the refusal. */
export async function cellOf<T>(
  answer: Promise<T>,
  said: (answer: T) => string = () => "",
): Promise<Cell> {
  const answered = await answer.then(
    (value) => ({ value }),
    () => undefined,
  );
  if (answered !== undefined) {
    const what = said(answered.value);
    return what === "" ? "OK" : `OK, ${what}`;
  }
  const { code, reason } = await refusal(answer);
  return `\`${status[code]}\` \`${reason}\``;
}

/** The first message of a stream; `waits`: it was accepted, and none is to be expected. */
export async function streamCell<T>(
  stream: ClientReadableStream<T>,
  said: (first: T) => string,
  waits: () => boolean = () => false,
): Promise<Cell> {
  let first: { readonly cell: Promise<Cell> } | undefined;
  stream.once("data", (message: T) => (first ??= { cell: cellOf(Promise.resolve(message), said) }));
  stream.once("error", (error: unknown) => (first ??= { cell: cellOf(Promise.reject(error)) }));
  await until("the stream is answered or waits", () => first !== undefined || waits());
  stream.on("error", () => {});
  stream.cancel();
  return (await first?.cell) ?? "OK, waits";
}

/**
 * Calls every line, each with an object of its own that is in the state. A repeat is made at once, and
 * throws if it is answered otherwise.
 */
export async function columnOf<Subject>(
  agent: TestAgent,
  lines: readonly Line<Subject>[],
  subjects: readonly Subject[],
): Promise<Column> {
  const cells = new Map<string, Cell>();
  for (const [index, { name, ask }] of lines.entries()) {
    const subject = subjects[index];
    if (subject === undefined) throw new Error(`no object for ${name}`);
    const cell = await ask(agent, subject);
    cells.set(name, cell);
    const again = await ask(agent, subject);
    if (outcome(again) !== outcome(cell)) {
      throw new Error(`${name} is answered ${cell}, and again: ${again}`);
    }
  }
  return cells;
}

/** Whether it was answered, or how it was refused: what is said of the object may go on meanwhile. */
const outcome = (cell: Cell) => (cell.startsWith("OK") ? "OK" : cell);

/** A table with these titles, of which the first stands above the names of the lines. */
export function markdown(
  titles: readonly string[],
  lines: readonly { readonly name: string }[],
  columns: ReadonlyMap<string, Column>,
): string {
  const body = lines.map(({ name }) => [
    name,
    ...titles.slice(1).map((title) => {
      const cell = columns.get(title)?.get(name);
      if (cell === undefined) throw new Error(`${name} was not answered in the state ${title}`);
      return cell;
    }),
  ]);
  const widths = titles.map((title, index) =>
    Math.max(title.length, ...body.map((row) => row[index]?.length ?? 0)),
  );
  const row = (cells: readonly string[]) =>
    `| ${cells.map((cell, index) => cell.padEnd(widths[index] ?? 0)).join(" | ")} |`;
  const rule = row(widths.map((width) => "-".repeat(width)));
  return [row(titles), rule, ...body.map(row)].join("\n");
}

/** The table below a heading of a document. */
export function tableOf(text: string, heading: string): string {
  const [, section = ""] = text.split(`\n## ${heading}\n`);
  const lines = section.split("\n");
  const start = lines.findIndex((line) => line.startsWith("|"));
  const end = lines.findIndex((line, index) => index > start && !line.startsWith("|"));
  if (start < 0) throw new Error(`no table below "${heading}"`);
  return lines.slice(start, end).join("\n");
}

/** The document with that table replaced. */
export function withTable(text: string, heading: string, table: string): string {
  return text.replace(tableOf(text, heading), () => table);
}
