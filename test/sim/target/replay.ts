// Replays a recorded scenario on a target and reports where its answers differ.
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { z } from "zod";
import { differences, fill, isObject, type Bindings } from "./match.ts";
import type { Json, RawStep, RecordedRequest, Step, Transcript } from "./transcript.ts";

/** Milliseconds without data after which a raw connection counts as open. */
const SILENCE_MS = 250;
const ANSWER_MS = 30_000;

export type ReplayOptions = {
  readonly socketPath: string;
  /** Attach parameters of the scenario's disks. */
  readonly disks: readonly Readonly<Record<string, string>>[];
  /** Kills the target and restarts it over the same disks. */
  readonly restart: () => Promise<void>;
};

const json = z.json();

/** Returns the differences, each with its step; empty when every answer matches the recording. */
export async function replay(transcript: Transcript, options: ReplayOptions): Promise<string[]> {
  await using player = new Player(options);
  const found: string[] = [];
  for (const [index, step] of transcript.steps.entries()) {
    const label = `${transcript.name} step ${index + 1}`;
    for (const one of await player.play(step)) found.push(`${label}: ${one}`);
  }
  return found;
}

class Player implements AsyncDisposable {
  readonly #options: ReplayOptions;
  readonly #bound: Bindings = new Map([
    ["addr", "127.0.0.1"],
    ["port", "4420"],
    ["port2", "4421"],
  ]);
  #line: Line | undefined;
  #lastId = 0;

  constructor(options: ReplayOptions) {
    this.#options = options;
  }

  async play(step: Step): Promise<string[]> {
    if ("method" in step) return await this.#pipeline([step]);
    if ("pipeline" in step) return await this.#pipeline(step.pipeline);
    if ("batch" in step) return await this.#batch(step.batch);
    if ("raw" in step) return await this.#raw(step);
    if ("restart" in step) {
      this.#line?.close();
      this.#line = undefined;
      await this.#options.restart();
      return [];
    }
    await new Promise((resolve) => setTimeout(resolve, step.sleep_ms));
    return [];
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#line?.close();
    return Promise.resolve();
  }

  async #pipeline(steps: readonly RecordedRequest[]): Promise<string[]> {
    const line = await this.#connected();
    const requests = steps.map((step) => this.#request(step));
    line.send(requests.map((request) => JSON.stringify(request)).join(""));
    const answers = new Map<Json | undefined, Json>();
    for (let missing = requests.length; missing > 0; missing -= 1) {
      const answer = await line.answer(ANSWER_MS);
      answers.set(isObject(answer) ? answer["id"] : undefined, answer ?? null);
    }
    return steps.flatMap((step, index) => this.#compare(step, answers.get(requests[index]?.id)));
  }

  async #batch(steps: readonly RecordedRequest[]): Promise<string[]> {
    const line = await this.#connected();
    const requests = steps.map((step) => this.#request(step));
    line.send(JSON.stringify(requests));
    const answers = await line.answer(ANSWER_MS);
    if (!Array.isArray(answers)) return ["batch: want one array as answer"];
    return steps.flatMap((step, index) => {
      const { id } = requests[index] ?? {};
      const answer = answers.find((one) => isObject(one) && one["id"] === id);
      return this.#compare(step, answer);
    });
  }

  /** Sends raw bytes on a new connection. */
  async #raw(step: RawStep): Promise<string[]> {
    const [piece = "", times = 0] = step.repeat ?? [];
    const text = step.raw.replace("\u0000REPEAT", () => piece.repeat(times));
    const line = await Line.open(this.#options.socketPath);
    line.send(fill(text, this.#bound));
    const lines: Json[] = [];
    for (;;) {
      // Wait long for expected answers; after them, a short silence shows that no more follow.
      const more = lines.length < step.lines.length || step.then === "closed";
      const answer = await line.answer(more ? ANSWER_MS : SILENCE_MS);
      if (answer === undefined) break;
      lines.push(answer);
    }
    const state = line.closed ? "closed" : "open";
    line.close();
    const found = differences(step.lines, lines, this.#bound, "lines");
    return state === step.then ? found : [...found, `connection: want ${step.then}, got ${state}`];
  }

  #compare(step: RecordedRequest, answer: Json | undefined): string[] {
    if (!isObject(answer)) return [`${step.method}: no answer`];
    const { id: _id, ...got } = answer;
    const want = { jsonrpc: "2.0", ...step.expect };
    return differences(want, got, this.#bound, "").map((one) => `${step.method} ${one}`);
  }

  #request({ method, params }: RecordedRequest) {
    const id = ++this.#lastId;
    const head = { jsonrpc: "2.0", id, method };
    return params === undefined ? head : { ...head, params: this.#substitute(params) };
  }

  #substitute(value: Json): Json {
    if (typeof value === "string") return fill(value, this.#bound);
    if (Array.isArray(value)) return value.map((one) => this.#substitute(one));
    if (!isObject(value)) return value;
    const entries = Object.entries(value).flatMap(([key, one]): [string, Json][] =>
      key === "$disk"
        ? Object.entries(this.#options.disks[Number(one)] ?? {})
        : [[key, this.#substitute(one)]],
    );
    return Object.fromEntries(entries);
  }

  async #connected(): Promise<Line> {
    this.#line ??= await Line.open(this.#options.socketPath);
    return this.#line;
  }
}

/** One connection; returns answers one at a time. */
class Line {
  readonly #socket: Socket;
  readonly #answers: string[] = [];
  #unread = "";
  #wake: () => void = () => {};
  closed = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding("utf8");
    socket.on("data", (chunk: string) => {
      const lines = (this.#unread + chunk).split("\n");
      this.#unread = lines.pop() ?? "";
      this.#answers.push(...lines);
      this.#wake();
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      this.closed = true;
      this.#wake();
    });
  }

  static async open(path: string): Promise<Line> {
    const socket = connect(path);
    await once(socket, "connect");
    return new Line(socket);
  }

  send(text: string): void {
    this.#socket.write(text);
  }

  /** Undefined: the connection closed, or no answer arrived within `limitMs`. */
  async answer(limitMs: number): Promise<Json | undefined> {
    const end = performance.now() + limitMs;
    while (this.#answers.length === 0 && !this.closed) {
      const leftMs = end - performance.now();
      if (leftMs <= 0) return undefined;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    const line = this.#answers.shift();
    return line === undefined ? undefined : json.parse(JSON.parse(line));
  }

  close(): void {
    this.#socket.destroy();
  }
}
