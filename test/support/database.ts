// A database for one test: fresh, real, and gone afterwards.
import { randomBytes } from "node:crypto";
import { Client } from "pg";
import { inject } from "vitest";
import { MIGRATED_TEMPLATE } from "./postgres-global.ts";

export type TestDatabase = {
  readonly name: string;
  readonly url: string;
  [Symbol.asyncDispose](): Promise<void>;
};

/**
 * Makes a database on the run's server: with the project's migrations applied, or empty. Disposing
 * drops it, even if connections to it are still open.
 */
export async function testDatabase(
  options: { readonly migrated?: boolean } = {},
): Promise<TestDatabase> {
  const name = `test_${randomBytes(6).toString("hex")}`;
  const template = options.migrated === false ? "template0" : MIGRATED_TEMPLATE;
  await administer(`create database ${name} template ${template}`);
  return {
    name,
    url: inject("postgresUrl").replace("@/postgres?", `@/${name}?`),
    [Symbol.asyncDispose]: () => administer(`drop database ${name} with (force)`),
  };
}

async function administer(statement: string): Promise<void> {
  const client = new Client({ connectionString: inject("postgresUrl") });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}
