// What tells one process of the target from the next one
// (docs/spdk-contract.md#which-process-of-the-target): its pid, and the moment of its start in
// ticks, which is what bdev_get_iostat counts minus what its reactor was busy and idle.

export const TICK_RATE = 2_600_000_000;
const TICKS_PER_NS = TICK_RATE / 1e9;
/** Share of its time that the reactor is busy. */
const BUSY = 0.02;

export type ProcessIdentity = {
  readonly pid: number;
  readonly startTicks: number;
};

/** Ticks of this machine: they go on counting over the end of a process. */
export function ticksNow(): number {
  return Math.round(Number(process.hrtime.bigint()) * TICKS_PER_NS);
}

let processes = 0;

/** Every target of this process counts as a process of its own, with a pid of its own. */
export function nextProcess(): ProcessIdentity {
  return { pid: process.pid + processes++, startTicks: ticksNow() };
}

/** Busy and idle ticks of the one reactor: together the time since the start. */
export function reactorTicks({ startTicks }: ProcessIdentity): {
  readonly busy: number;
  readonly idle: number;
} {
  const elapsed = ticksNow() - startTicks;
  const busy = Math.floor(elapsed * BUSY);
  return { busy, idle: elapsed - busy };
}
