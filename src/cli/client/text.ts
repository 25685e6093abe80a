// Text for people at a terminal: wrapped at its width, tables aligned, no colours.

const WIDTH = 100;
const NARROWEST = 40;
const WIDEST = 120;

/** Where to wrap: what is not a terminal gets lines that fit most. */
export function widthOf(columns: number | undefined): number {
  return Math.min(Math.max(columns ?? WIDTH, NARROWEST), WIDEST);
}

/** Breaks at blanks; a word that is longer than the width gets a line of its own, whole. */
export function wrap(text: string, width: number, indent = ""): string {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    const longer = line === "" ? word : `${line} ${word}`;
    if (line !== "" && indent.length + longer.length > width) {
      lines.push(line);
      line = word;
    } else line = longer;
  }
  return [...lines, line].map((one) => `${indent}${one}`).join("\n");
}

/** As wrap, behind a label of a fixed width. */
export function labelled(label: string, text: string, layout: { width: number; label: number }) {
  const indent = " ".repeat(layout.label);
  const wrapped = wrap(text, layout.width, indent);
  return `${label.padEnd(layout.label)}${wrapped.slice(layout.label)}`;
}

/** Columns as wide as what is in them, two blanks apart. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [at, cell] of row.entries()) widths[at] = Math.max(widths[at] ?? 0, cell.length);
  }
  return rows.map((row) =>
    row
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}
