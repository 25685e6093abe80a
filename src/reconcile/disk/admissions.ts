// Admissions of disks by policy, and the end of an admission when a disk is not as it was when it was
// admitted. It never admits what a look has found evidence against.
import type { Logger } from "pino";
import type { Config } from "../../config.ts";
import type { FabricDisk } from "../../config-disks.ts";
import { isChanged } from "../../model/disk-admission.ts";
import type { ControllerRow } from "../../model/controller.ts";
import { Refusal } from "../../model/errors.ts";
import type { DiskRow } from "../../model/disk.ts";
import type { Evidence } from "../../model/evidence.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Rows } from "../../store/rows.ts";
import type { Writer } from "../../store/writer.ts";
import type { Kernel } from "../../sysfs/kernel.ts";
import type { NvmeNamespace, NvmeTopology } from "../../sysfs/nvme.ts";
import { admittedByPolicy, inspectOptions } from "./discover.ts";
import { Looks } from "./looks.ts";

export type AdmissionsOptions = {
  readonly config: Config;
  readonly rows: Rows;
  readonly writer: Pick<Writer, "mutate" | "recordController">;
  readonly kernel: Kernel;
  readonly log: Logger;
  readonly writeMode: () => WriteMode;
  /** Where the kernel shows a disk. */
  readonly find: (
    id: string,
  ) => { readonly address: string; readonly namespace?: NvmeNamespace } | undefined;
  readonly topology: () => NvmeTopology | undefined;
  /** The configuration entry of a disk on a fabric. */
  readonly entryOf: (row: DiskRow) => FabricDisk | undefined;
};

const BY_POLICY = { actor: "policy", traceparent: undefined } as const;

export class Admissions {
  readonly looks: Looks;
  readonly #options: AdmissionsOptions;

  constructor(options: AdmissionsOptions) {
    this.#options = options;
    this.looks = new Looks(options.kernel, inspectOptions(options.config));
  }

  /** Looks at a disk, which may end its admission; undefined: no kernel driver shows it, or its controller moves. */
  async look(id: string): Promise<readonly Evidence[] | undefined> {
    const topology = this.#options.topology();
    const found = this.#options.find(id);
    if (topology === undefined || found?.namespace === undefined) return undefined;
    const evidence = await this.looks.look(id, topology, found.address);
    if (evidence !== undefined) await this.#endIfChanged(id, evidence);
    return evidence;
  }

  /** A claim has found evidence against the disk, or against others that are taken with it. */
  async foundInClaim(id: string, evidence: readonly Evidence[]): Promise<void> {
    this.looks.found(id, evidence);
    await this.#endIfChanged(id, evidence);
  }

  async #endIfChanged(id: string, evidence: readonly Evidence[]): Promise<void> {
    const { rows, writer, writeMode, log } = this.#options;
    const row = rows.disk(id);
    if (row === undefined || writeMode() !== "read-write" || !isChanged(row, evidence)) return;
    await writer.mutate({ kind: "endAdmission", id, evidence, ...BY_POLICY });
    log.warn({ disk: id, serial: row.serial }, "disk changed after it was admitted");
  }

  /**
   * Goes on with controllers that a call had handed back to their kernel driver: admits their disks, as
   * that call asked for, unless there is evidence against them.
   */
  async endInspections(seenAt: (row: ControllerRow) => readonly string[]): Promise<void> {
    const { rows, writer, writeMode, log } = this.#options;
    if (writeMode() !== "read-write") return;
    for (const row of rows.controllers()) {
      const disks = row.inspectRequestedTime === undefined ? [] : seenAt(row);
      if (disks.length === 0 || disks.some((id) => this.looks.evidence(id) === undefined)) continue;
      for (const id of disks) await this.#admitAsAsked(id, row);
      const ended = { inspectRequestedTime: undefined, inspectSerial: undefined };
      await writer.recordController(row, ended);
      log.info({ controller: row.id, disks }, "controller was handed back and looked at");
    }
  }

  async #admitAsAsked(
    id: string,
    { actor, traceparent, inspectSerial }: ControllerRow,
  ): Promise<void> {
    const { rows, writer, log } = this.#options;
    const evidence = this.looks.evidence(id);
    const serial = inspectSerial ?? rows.disk(id)?.serial ?? "";
    const asked = {
      id,
      serial,
      evidence,
      evidenceFingerprint: undefined,
      discardZeroes: undefined,
    };
    try {
      await writer.mutate({ kind: "admitDisk", ...asked, actor: actor ?? "policy", traceparent });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      log.warn({ disk: id, serial, reason: error.message }, "disk was looked at and not admitted");
    }
  }

  async admitByPolicy(id: string): Promise<void> {
    const { rows, writer, config, writeMode, log } = this.#options;
    const row = rows.disk(id);
    if (row === undefined || writeMode() !== "read-write") return;
    const fabric = this.#options.entryOf(row);
    const isPermitted = () => {
      const [evidence, cleanForMs] = [this.looks.evidence(id), this.looks.cleanForMs(id)];
      return admittedByPolicy(config, row, { evidence, fabric, cleanForMs });
    };
    if (!isPermitted()) return;
    // The last look may have been a while ago.
    const evidence = fabric === undefined ? await this.look(id) : undefined;
    if (!isPermitted() || (fabric === undefined && evidence === undefined)) return;
    const { serial } = row;
    const { discardZeroes } = fabric ?? {};
    const asked = { id, serial, evidence, evidenceFingerprint: undefined, discardZeroes };
    await writer.mutate({ kind: "admitDisk", ...asked, ...BY_POLICY });
    log.info({ disk: id, serial }, "disk admitted by policy");
  }
}
