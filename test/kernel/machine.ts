// An emulated machine (QEMU without KVM) with Debian's kernel, started and stopped by its process id.
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { hostAndPort } from "../../src/api/listen.ts";
import { freeAddress } from "../../src/demo/listen-address.ts";
import { driveArguments, type EmulatedDrive, type PluggableDrive } from "./drives.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import {
  READY_LINE,
  scriptAnswer,
  SERVICE_PORT,
  type ScriptAnswer,
} from "./guest/script-answer.ts";
import { Monitor } from "./monitor.ts";
import { programPath } from "./packages.ts";

/** Boot and each script, on a machine that is loaded by other work. */
const BOOT_MS = 240_000;
const SCRIPT_MS = 120_000;
/** After this the machine is ended, whatever it does. */
const LIFE_MS = 900_000;
const CONSOLE_CHARS = 8_000;

/** Port of the agent in the guest. */
export const AGENT_PORT = 50_051;

export type Iommu = "on" | "off" | "without interrupt remapping";

export type MachineOptions = {
  readonly kernelImage: string;
  readonly initramfs: string;
  readonly drives: readonly (EmulatedDrive | PluggableDrive)[];
  readonly iommu: Iommu;
  /** 2-MiB pages reserved at boot. */
  readonly hugepages: number;
  /** Default: 2048. */
  readonly memoryMib?: number;
};

export class Machine implements AsyncDisposable {
  /** HOST:PORT here that leads to the agent in the guest. */
  readonly agentAddress: string;
  readonly monitor: Monitor;
  readonly #qemu: ChildProcess;
  readonly #service: string;
  readonly #stack: AsyncDisposableStack;
  readonly #console: { tail: string };

  private constructor(
    qemu: ChildProcess,
    monitor: Monitor,
    ports: { readonly agent: number; readonly service: number },
    console: { tail: string },
    stack: AsyncDisposableStack,
  ) {
    this.#qemu = qemu;
    this.monitor = monitor;
    this.agentAddress = `127.0.0.1:${ports.agent}`;
    this.#service = `http://127.0.0.1:${ports.service}/`;
    this.#console = console;
    this.#stack = stack;
  }

  /** Resolves when the guest takes scripts; throws with the end of its console. */
  static async boot(options: MachineOptions): Promise<Machine> {
    await using stack = new AsyncDisposableStack();
    const folder = stack.use(await temporaryFolder());
    const ports = { agent: await freePort(), service: await freePort() };
    const args = [...machineArguments(options, ports)];
    args.push(...(await driveArguments(folder.path, options.drives)));
    const monitorPath = join(folder.path, "monitor.sock");
    args.push("-qmp", `unix:${monitorPath},server=on,wait=off`);
    // The kernel ends it with the process that started it, however that ends.
    const program = ["--pdeathsig", "KILL", programPath("qemu-system-x86_64")];
    const qemu = spawn(programPath("setpriv"), [...program, ...args], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    stack.defer(async () => await end(qemu));
    const life = setTimeout(() => qemu.kill("SIGKILL"), LIFE_MS);
    stack.defer(() => clearTimeout(life));
    const console = { tail: "" };
    await ready(qemu, console);
    const monitor = stack.use(await Monitor.open(monitorPath));
    return new Machine(qemu, monitor, ports, console, stack.move());
  }

  /** Runs a shell script in the guest to its end. */
  async run(script: string): Promise<ScriptAnswer> {
    try {
      const signal = AbortSignal.timeout(SCRIPT_MS);
      const response = await fetch(this.#service, { method: "POST", body: script, signal });
      return scriptAnswer.parse(await response.json());
    } catch (error) {
      const what = this.#qemu.exitCode === null ? "" : "the machine has ended; ";
      const message = `${what}script failed: ${script}\n${this.#console.tail}`;
      throw new Error(message, { cause: error });
    }
  }

  /** As `run`: what it wrote, without surrounding blanks. Throws unless it ends with 0. */
  async sh(script: string): Promise<string> {
    const { code, stdout, stderr } = await this.run(script);
    if (code !== 0) throw new Error(`exit code ${code} of ${script}: ${stderr}${stdout}`);
    return stdout.trim();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack[Symbol.asyncDispose]();
  }
}

function machineArguments(
  { kernelImage, initramfs, iommu, hugepages, memoryMib = 2_048 }: MachineOptions,
  ports: { readonly agent: number; readonly service: number },
): readonly string[] {
  const forwarded = [
    `hostfwd=tcp:127.0.0.1:${ports.service}-:${SERVICE_PORT}`,
    `hostfwd=tcp:127.0.0.1:${ports.agent}-:${AGENT_PORT}`,
  ];
  const remapping = iommu === "on" ? "on" : "off";
  const kernel = ["console=ttyS0", "quiet", "panic=-1", "transparent_hugepage=never"];
  kernel.push(`hugepages=${hugepages}`);
  kernel.push(...(iommu === "off" ? ["intel_iommu=off"] : ["intel_iommu=on", "iommu=pt"]));
  const off = iommu === "off";
  const args = ["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", `${memoryMib}M`];
  args.push("-machine", off ? "q35" : "q35,kernel-irqchip=split");
  args.push("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot");
  args.push("-serial", "stdio");
  // Drives are pulled out as from a real slot, not by ACPI.
  args.push("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off");
  // Before all other devices: it translates only for those that come after it.
  if (!off) args.push("-device", `intel-iommu,intremap=${remapping},caching-mode=on,aw-bits=48`);
  args.push("-netdev", ["user", "id=net", ...forwarded].join(","));
  args.push("-device", "virtio-net-pci,netdev=net,addr=1e.0");
  args.push("-kernel", kernelImage, "-initrd", initramfs, "-append", kernel.join(" "));
  return args;
}

async function ready(qemu: ChildProcess, console: { tail: string }): Promise<void> {
  const booted = Promise.withResolvers<void>();
  for (const stream of [qemu.stdout, qemu.stderr]) {
    stream?.setEncoding("utf8").on("data", (text: string) => {
      console.tail = (console.tail + text).slice(-CONSOLE_CHARS);
      if (console.tail.includes(READY_LINE)) booted.resolve();
    });
  }
  const failed = (why: string) => booted.reject(new Error(`${why}; console:\n${console.tail}`));
  qemu.once("error", (error) => failed(error.message));
  qemu.once("exit", (code, signal) => failed(`the machine ended (${signal ?? code})`));
  const limit = setTimeout(() => failed(`not booted within ${BOOT_MS / 1000} s`), BOOT_MS);
  try {
    await booted.promise;
  } finally {
    clearTimeout(limit);
  }
}

async function end(qemu: ChildProcess): Promise<void> {
  if (qemu.pid === undefined || qemu.exitCode !== null || qemu.signalCode !== null) return;
  qemu.kill("SIGKILL");
  await once(qemu, "exit");
}

async function freePort(): Promise<number> {
  return hostAndPort(await freeAddress("127.0.0.1:0")).port;
}
