// The file of who may call (STORAGE_NODE_CLIENTS): which name in a certificate has which roles.
import { z } from "zod";
import { ROLES, type Role } from "../model/caller.ts";
import { isNqn } from "../model/nqn.ts";
import { FileFault, messageOf } from "./reloaded.ts";

export type Client = {
  readonly roles: readonly Role[];
  /** Of a compute node: the hosts that it connects as. Empty for others. */
  readonly hostNqns: readonly string[];
};

/** By name, as `nameKey` spells it. */
export type Clients = ReadonlyMap<string, Client>;

const MAX_FAULTS_NAMED = 10;

const client = z
  .strictObject({
    san: z
      .string()
      .regex(/^(?:URI:[^*\s]+|DNS:[^*\s]+)$/, "must be URI:… or DNS:…, a whole name without *"),
    roles: z
      .array(z.enum(ROLES, { error: `must be one of ${ROLES.join(", ")}` }))
      .min(1, "must not be empty"),
    host_nqns: z.array(z.string().refine(isNqn, "is not an NQN that a host can have")).default([]),
  })
  .superRefine(({ roles, host_nqns: hosts }, context) => {
    const compute = roles.includes("compute");
    const problem = (message: string) =>
      context.addIssue({ code: "custom", path: ["host_nqns"], message });
    if (compute && hosts.length === 0) problem("must not be empty: the role compute is for hosts");
    if (!compute && hosts.length > 0) problem("is for the role compute only");
  });

/** Throws FileFault with what is wrong, each with the path of the entry. */
export function parseClients(path: string, content: Buffer): Clients {
  let json: unknown;
  try {
    json = JSON.parse(content.toString());
  } catch (error) {
    throw new FileFault(`${path} is not JSON: ${messageOf(error)}`);
  }
  const parsed = z
    .array(client, { error: "must be a list" })
    .min(1, "names no client: nobody could call")
    .safeParse(json);
  if (parsed.data === undefined) throw faultOf(path, parsed.error.issues);
  const clients = new Map<string, Client>();
  for (const { san, roles, host_nqns: hostNqns } of parsed.data) {
    const key = nameKey(san);
    if (clients.has(key)) throw new FileFault(`${path}: names ${san} twice`);
    clients.set(key, { roles: [...new Set(roles)], hostNqns });
  }
  return clients;
}

/** Names of DNS are the same in upper and lower case. */
export function nameKey(name: string): string {
  return name.startsWith("DNS:") ? name.toLowerCase() : name;
}

function faultOf(path: string, issues: readonly z.core.$ZodIssue[]): FileFault {
  const texts = issues.map((issue) => {
    const [index, ...field] = issue.path;
    const at = index === undefined ? "" : `[${[index, ...field].join(".")}] `;
    return `${at}${issue.message}`;
  });
  const left = texts.length - MAX_FAULTS_NAMED;
  const more = left > 0 ? `; and ${left} more` : "";
  return new FileFault(`${path}: ${texts.slice(0, MAX_FAULTS_NAMED).join("; ")}${more}`);
}
