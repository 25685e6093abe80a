// What a test sets of the drive behind a disk: its health page, and how its controller is.
import { z } from "zod";

const byte = z.int().min(0).max(255);
/** The counters of a page have 128 bits; decimal digits where a number is not exact. */
const counter = z.union([z.int().nonnegative(), z.string().regex(/^\d{1,39}$/)]);

export const drive = {
  /** failed: its page cannot be read. resetting: its page comes once it is enabled again. */
  controller: z.enum(["enabled", "resetting", "failed"]),
  critical_warning: byte,
  /** As on the page; SPDK shows it less 273, and what is below 0 then as a number of 64 bits. */
  temperature_kelvin: z.int().min(0).max(65_535),
  available_spare_percentage: byte,
  available_spare_threshold_percentage: byte,
  percentage_used: byte,
  data_units_read: counter,
  data_units_written: counter,
  host_read_commands: counter,
  host_write_commands: counter,
  power_cycles: counter,
  power_on_hours: counter,
  unsafe_shutdowns: counter,
  media_errors: counter,
  num_err_log_entries: counter,
};

const whole = z.object(drive);

export type Drive = Readonly<z.output<typeof whole>>;

export const HEALTHY_DRIVE: Drive = {
  controller: "enabled",
  critical_warning: 0,
  temperature_kelvin: 323,
  available_spare_percentage: 100,
  available_spare_threshold_percentage: 10,
  percentage_used: 0,
  data_units_read: 0,
  data_units_written: 0,
  host_read_commands: 0,
  host_write_commands: 0,
  power_cycles: 1,
  power_on_hours: 1,
  unsafe_shutdowns: 0,
  media_errors: 0,
  num_err_log_entries: 0,
};

/** The drive with what the change names, which may name other things, too. */
export function changedDrive(before: Drive, change: object): Drive {
  return whole.parse({ ...before, ...change });
}
