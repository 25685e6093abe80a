// QEMU's monitor (QMP): what is done to the hardware of a running machine.
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { z } from "zod";

/** A guest takes up to 5 s to let a drive go whose button was pressed. */
const ANSWER_MS = 60_000;

const message = z.object({
  return: z.unknown().optional(),
  error: z.object({ desc: z.string() }).optional(),
  event: z.string().optional(),
  data: z.object({ device: z.string().optional() }).optional(),
});

type Message = z.output<typeof message>;

export class Monitor implements Disposable {
  readonly #socket: Socket;
  #waiting: {
    readonly isIt: (said: Message) => boolean;
    readonly resolve: (said: Message) => void;
  }[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket;
    createInterface({ input: socket }).on("line", (line) => {
      const said = message.parse(JSON.parse(line));
      const found = this.#waiting.find(({ isIt }) => isIt(said));
      this.#waiting = this.#waiting.filter((one) => one !== found);
      found?.resolve(said);
    });
  }

  static async open(path: string): Promise<Monitor> {
    const socket = connect(path);
    await once(socket, "connect");
    const monitor = new Monitor(socket);
    await monitor.#execute("qmp_capabilities", {});
    return monitor;
  }

  async addDevice(device: Readonly<Record<string, string>>): Promise<void> {
    await this.#execute("device_add", device);
  }

  /** Presses the button of the drive's slot; resolves when the guest has let it go. */
  async removeDevice(id: string): Promise<void> {
    const gone = this.#said(({ event, data }) => event === "DEVICE_DELETED" && data?.device === id);
    await this.#execute("device_del", { id });
    await gone;
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  async #execute(command: string, args: object): Promise<void> {
    const answered = this.#said((said) => said.return !== undefined || said.error !== undefined);
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    const { error } = await answered;
    if (error !== undefined) throw new Error(`${command} ${JSON.stringify(args)}: ${error.desc}`);
  }

  async #said(isIt: (said: Message) => boolean): Promise<Message> {
    const { promise, resolve, reject } = Promise.withResolvers<Message>();
    const one = { isIt, resolve };
    this.#waiting.push(one);
    const limit = setTimeout(() => reject(new Error("QEMU's monitor does not say it")), ANSWER_MS);
    try {
      return await promise;
    } finally {
      clearTimeout(limit);
    }
  }
}
