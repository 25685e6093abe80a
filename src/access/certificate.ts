// X.509: the names in a certificate, and whether it is trusted once other CAs are.
import type { X509Certificate } from "node:crypto";

/** One name, as Node prints it: quoted as JSON where it has a character that could be mistaken. */
const NAME = /(?:^|, )([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^,"]*)(?=, |$)/gy;

const MAX_NAMES_SHOWN = 5;
const MAX_NAME_SHOWN = 200;

/** The names of kind URI and DNS in the subjectAltName, such as `URI:spiffe://fleet/scheduler`. */
export function namesOf({ subjectAltName }: Pick<X509Certificate, "subjectAltName">): string[] {
  return [...(subjectAltName ?? "").matchAll(NAME)].flatMap(([, kind = "", text = ""]) => {
    if (kind !== "URI" && kind !== "DNS") return [];
    const name: unknown = text.startsWith('"') ? JSON.parse(text) : text;
    return typeof name === "string" ? [`${kind}:${name}`] : [];
  });
}

/** For people: what stands in a certificate may be long. */
export function shownNames(names: readonly string[]): string {
  const shown = names.slice(0, MAX_NAMES_SHOWN).map((name) => name.slice(0, MAX_NAME_SHOWN));
  return shown.join(", ");
}

/**
 * Whether a certificate that was accepted with the CAs `before` would be accepted with `now`, as far as it
 * shows by itself: Node does not tell a server which intermediate CAs have come with it.
 */
export function isStillTrusted(
  certificate: X509Certificate,
  { before, now }: { readonly before: readonly X509Certificate[]; readonly now: typeof before },
): boolean {
  const trusted = new Set(now.map(({ fingerprint256 }) => fingerprint256));
  if (before.every(({ fingerprint256 }) => trusted.has(fingerprint256))) return true;
  return now.some((ca) => certificate.checkIssued(ca) && certificate.verify(ca.publicKey));
}
