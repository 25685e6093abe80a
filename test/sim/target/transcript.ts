// Schema of a recorded scenario: requests sent to a real target and its answers, as stored in
// test/fixtures/transcripts.
import { z } from "zod";

const json = z.json();
const expectation = z.union([
  z.strictObject({ result: json }),
  z.strictObject({ error: z.strictObject({ code: json, message: json }) }),
]);

const request = z.strictObject({
  method: z.string(),
  params: json.optional(),
  expect: expectation,
  note: z.string().optional(),
});

const raw = z.strictObject({
  raw: z.string(),
  repeat: z.tuple([z.string(), z.number()]).optional(),
  lines: z.array(json),
  // The field name is fixed by the recordings.
  // oxlint-disable-next-line unicorn/no-thenable
  then: z.enum(["open", "closed"]),
  note: z.string().optional(),
});

const note = z.string().optional();
const step = z.union([
  request,
  z.strictObject({ pipeline: z.array(request), note }),
  z.strictObject({ batch: z.array(request), note }),
  raw,
  z.strictObject({ restart: z.literal("kill"), note }),
  z.strictObject({ sleep_ms: z.number(), note }),
]);

export const transcript = z.object({
  name: z.string(),
  disks: z.array(z.object({ block_size: z.number(), num_blocks: z.number() })),
  steps: z.array(step),
});

export type Json = z.infer<typeof json>;
export type Transcript = z.infer<typeof transcript>;
export type Step = Transcript["steps"][number];
export type RecordedRequest = z.infer<typeof request>;
export type RawStep = z.infer<typeof raw>;
