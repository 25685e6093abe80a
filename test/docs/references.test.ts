// Every cited file and heading of docs/ must exist. Comments and text cite them by path and anchor,
// Markdown files by relative links.
import { glob, readFile } from "node:fs/promises";
import { dirname, join, posix } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
/** Files that are searched for citations; generated code and recorded data are not. */
const CITING = [
  "*.md",
  "docs/**/*.md",
  "{src,test,bin,migrations,proto}/**/*.{ts,js,md,sql,proto}",
] as const;
const GENERATED = /^src\/gen\/|^proto\/(?:google|grpc)\//;

type Citation = {
  /** `file:line` of the citation. */
  readonly at: string;
  readonly cited: string;
  /** Relative to the root of the repository. */
  readonly path: string;
  readonly anchor: string | undefined;
};

/** A path below docs/, with or without a heading; not as the end of a longer path. */
const CITED = /(?<![\w./-])docs\/[\w.-]+\.md(?:#[\w-]*)?/g;
/** A Markdown link to a file or to a heading of the same file, not to another host. */
const LINK = /\]\((?![a-z]+:)([^)\s]+)\)/g;

function citationsIn(file: string, text: string): readonly Citation[] {
  return text.split("\n").flatMap((line, index) => {
    const at = `${file}:${index + 1}`;
    const links = file.endsWith(".md")
      ? [...line.matchAll(LINK)].map(([, link = ""]) => {
          const [path = "", anchor] = link.split("#");
          const target = path === "" ? file : posix.join(dirname(file), path);
          return { at, cited: link, path: target, anchor };
        })
      : [];
    // A Markdown link may begin with docs/ too: remove links so that they are not counted twice.
    const prose = file.endsWith(".md") ? line.replaceAll(LINK, "") : line;
    const cited = [...prose.matchAll(CITED)].map(([found]) => {
      const [path = "", anchor] = found.split("#");
      return { at, cited: found, path, anchor };
    });
    return [...links, ...cited];
  });
}

/** The anchors of the headings of a Markdown file, as GitHub generates them. */
function anchorsOf(markdown: string): ReadonlySet<string> {
  const anchors = new Set<string>();
  const prose = markdown.replaceAll(/^```.*?^```/gms, "");
  for (const [, heading = ""] of prose.matchAll(/^#{1,6} +(.*)$/gm)) {
    const plain = heading.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, "$1").trim();
    const anchor = plain
      .toLowerCase()
      .replaceAll(/[^\p{Letter}\p{Number}\p{Mark}_ -]/gu, "")
      .replaceAll(" ", "-");
    let unique = anchor;
    for (let count = 1; anchors.has(unique); count += 1) unique = `${anchor}-${count}`;
    anchors.add(unique);
  }
  return anchors;
}

/** Describes a broken citation; undefined: the citation resolves. */
async function faultOf({ at, cited, path, anchor }: Citation): Promise<string | undefined> {
  let text: string;
  try {
    text = await readFile(join(ROOT, path), "utf8");
  } catch {
    return `${at}: ${cited}: there is no file ${path}`;
  }
  if (anchor === undefined || anchorsOf(text).has(anchor)) return undefined;
  return `${at}: ${cited}: ${path} has no heading #${anchor}`;
}

async function citations(): Promise<readonly Citation[]> {
  const files: string[] = [];
  for await (const file of glob([...CITING], { cwd: ROOT })) {
    if (!GENERATED.test(file)) files.push(file);
  }
  const found = await Promise.all(
    files.map(async (file) => citationsIn(file, await readFile(join(ROOT, file), "utf8"))),
  );
  return found.flat();
}

it("each heading and file of docs/ that is cited or linked exists", async () => {
  const all = await citations();
  expect(all.filter(({ at }) => at.startsWith("src/")).length).toBeGreaterThan(40);
  expect(all.filter(({ at }) => at.startsWith("docs/")).length).toBeGreaterThan(20);
  const faults = await Promise.all(all.map(faultOf));
  expect(faults.filter((fault) => fault !== undefined).toSorted()).toEqual([]);
});

it("a broken citation is reported with its file and line", async () => {
  const doc = (name: string) => `docs/${name}`;
  const [rule, file] = [doc("architecture.md#no-such-rule"), doc("no-such.md")];
  const text = `// Exists (${doc("architecture.md#r1-lanes")}).\n// Do not: ${rule}, ${file}.`;
  const faults = await Promise.all(citationsIn("src/a.ts", text).map(faultOf));
  expect(faults).toEqual([
    undefined,
    `src/a.ts:2: ${rule}: docs/architecture.md has no heading #no-such-rule`,
    `src/a.ts:2: ${file}: there is no file ${file}`,
  ]);
  const link = await Promise.all(citationsIn(doc("a.md"), "[a](kernel.md#no)").map(faultOf));
  expect(link).toEqual([`${doc("a.md")}:1: kernel.md#no: docs/kernel.md has no heading #no`]);
});

it("anchors are generated as GitHub does", () => {
  const markdown = "# A `b`, (c): d\n\n## Twice\n\n### Twice\n\n```\n# no heading\n```\n";
  expect([...anchorsOf(markdown)]).toEqual(["a-b-c-d", "twice", "twice-1"]);
});
