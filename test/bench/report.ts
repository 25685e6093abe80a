// Formats the results as a text table and as JSON.
import type { Spread } from "./measure.ts";
import { met, type Goal, type Line, type RowResult } from "./row.ts";

export function table(lines: readonly Line[]): string {
  const head = ["what", "unit", "measured", "limit", "ratio min / median / max", "goal", ""];
  const rows = lines.map((line) => [
    line.what,
    line.unit,
    range(line.ours),
    line.limit === undefined ? "" : range(line.limit),
    line.ratio === undefined ? "" : three(line.ratio),
    line.goal === undefined ? "" : goalText(line.goal),
    verdict(met(line)),
  ]);
  const all = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)));
  return all
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

export function json(of: {
  readonly machine: object;
  readonly options: object;
  readonly rows: Readonly<Record<string, RowResult>>;
}): string {
  const rows = Object.fromEntries(
    Object.entries(of.rows).map(([name, { lines, notes, raw }]) => [
      name,
      { lines: lines.map((line) => ({ ...line, met: met(line) })), notes, raw },
    ]),
  );
  return `${JSON.stringify({ ...of, rows }, undefined, 1)}\n`;
}

function verdict(isMet: boolean | undefined): string {
  if (isMet === undefined) return "";
  return isMet ? "met" : "MISSED";
}

function range({ min, median, max }: Spread): string {
  if (min === max) return number(median);
  return `${number(median)} (${number(min)}-${number(max)})`;
}

function three({ min, median, max }: Spread): string {
  return `${number(min)} / ${number(median)} / ${number(max)}`;
}

function number(value: number): string {
  if (Number.isNaN(value)) return "?";
  if (value === 0 || Math.abs(value) >= 100) return value.toFixed(0);
  return value.toFixed(Math.abs(value) >= 10 ? 1 : 2);
}

function goalText({ kind, value }: Goal): string {
  return `${kind === "at most" ? "<=" : ">="} ${value}`;
}
