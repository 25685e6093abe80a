// Formats plain text for a terminal: wrapped lines and aligned tables, no colours.

const WIDTH = 100;
const NARROWEST = 40;
const WIDEST = 120;

/** Width to wrap at: that of the terminal within limits; 100 characters if it is not a terminal. */
export function widthOf(columns: number | undefined): number {
  return Math.min(Math.max(columns ?? WIDTH, NARROWEST), WIDEST);
}

/** Breaks lines at blanks. A word longer than the width stays whole on a line of its own. */
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
  return [...lines, line].map((text) => `${indent}${text}`).join("\n");
}

/** As wrap, after a label padded to `layout.label` characters. */
export function labelled(label: string, text: string, layout: { width: number; label: number }) {
  const indent = " ".repeat(layout.label);
  const wrapped = wrap(text, layout.width, indent);
  return `${label.padEnd(layout.label)}${wrapped.slice(layout.label)}`;
}

/** One line per row; columns are as wide as their widest cell and separated by two blanks. */
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
