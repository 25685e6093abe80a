// A disk and its lvstore, as the target shows them.

export type ObservedStore = {
  readonly name: string;
  readonly uuid: string;
  readonly baseBdev: string;
  readonly clusterBytes: bigint;
  readonly totalClusters: bigint;
  readonly freeClusters: bigint;
};

export type ObservedDisk = {
  readonly controllerName: string;
  readonly bdevName: string;
  readonly serial: string;
  readonly model: string;
  readonly sizeBytes: bigint;
  readonly blockSize: number;
  readonly store: ObservedStore | undefined;
};
