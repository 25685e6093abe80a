// A saved configuration: written as save_config does, replayed at the start of the target as with
// SPDK's option --config, before its socket accepts. What it cannot replay ends the start.
import { readFileSync, writeFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { z } from "zod";
import type { Engine } from "./engine.ts";
import { parseJson } from "./json.ts";
import { readRequest } from "./request.ts";
import { configOf } from "./saved-config.ts";
import type { Target } from "./target.ts";

const SUBSYSTEMS = ["bdev", "nvmf"] as const;
/** Settings that a file of a real target has, without an effect here. */
const SETTINGS = /_set_(options|config|default_impl|hotplug|crdt|max_subsystems|scheduler)$/;

const file = z.object({
  subsystems: z.array(
    z.object({
      subsystem: z.string(),
      config: z.array(z.object({ method: z.string(), params: z.json().optional() })).nullable(),
    }),
  ),
});

const reply = z.object({ error: z.object({ message: z.string() }).optional() });

export function saveConfig(target: Target, path: string): void {
  const subsystems = SUBSYSTEMS.map((subsystem) => ({
    subsystem,
    config: configOf(target, subsystem) ?? [],
  }));
  writeFileSync(path, `${JSON.stringify({ subsystems }, undefined, 2)}\n`);
}

/** Throws when a method is refused, and TargetAbort where a real target crashes. */
export async function replayConfig(engine: Engine, path: string, pollMs: number): Promise<void> {
  const { subsystems } = file.parse(JSON.parse(readFileSync(path, "utf8")));
  for (const { config } of subsystems) {
    for (const { method, params } of config ?? []) {
      if (SETTINGS.test(method)) continue;
      const answer = await carryOut(engine, { method, params }, pollMs);
      const { error } = reply.parse(JSON.parse(answer));
      if (error !== undefined) throw new Error(`${path}: ${method}: ${error.message}`);
    }
  }
}

async function carryOut(engine: Engine, request: object, pollMs: number): Promise<string> {
  const text = Buffer.from(JSON.stringify({ jsonrpc: "2.0", id: 0, ...request }));
  const parsed = parseJson(text.toString("latin1"), 0, Number.POSITIVE_INFINITY);
  const read = parsed.kind === "value" ? readRequest(parsed.value) : undefined;
  if (read?.kind !== "request") throw new Error(`not a request: ${text.toString()}`);
  const answers: string[] = [];
  engine.start(read.request, (line) => answers.push(line ?? "{}"));
  while (answers.length === 0) {
    engine.completeDue();
    if (answers.length === 0) await pause(pollMs);
  }
  return answers[0] ?? "{}";
}
