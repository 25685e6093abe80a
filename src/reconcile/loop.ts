// The interface of a reconciler loop.
//
// A loop names the kind of object that it converges (`over`); its `plan` returns the next step that
// brings one object closer to its intent. `plan` is a pure, synchronous function of a view, which
// includes the time. A wake-up carries no data: it requests a plan and does not say what changed. A
// plan returns nothing when the object is converged, or when it waits for an observation, which
// wakes the object. Steps do not retry: the next pass does, after a back-off that the driver keeps
// per loop and object and that a new intent clears.
//
// A pass dispatches steps to lanes and does not wait for them. While a step of a loop is in flight
// for an object, the loop does not plan that object; it does again when the step is answered.
import type { ControllerView } from "./controller/view.ts";
import type { DiskView } from "./disk/view.ts";
import type { SnapshotPlanView } from "./lvol/snapshot-view.ts";
import type { ControllerStep, DiskStep, SnapshotStep, VolumeStep } from "./steps.ts";
import type { VolumePlanView } from "./lvol/view.ts";

type Common = { readonly name: string };

export type VolumeLoop = Common & {
  readonly over: "lvol";
  readonly plan: (view: VolumePlanView) => VolumeStep | readonly VolumeStep[] | undefined;
};

export type SnapshotLoop = Common & {
  readonly over: "snapshot";
  readonly plan: (view: SnapshotPlanView) => SnapshotStep | undefined;
};

export type ControllerLoop = Common & {
  readonly over: "controller";
  readonly plan: (view: ControllerView) => ControllerStep | undefined;
};

export type DiskLoop = Common & {
  readonly over: "disk";
  readonly plan: (view: DiskView) => DiskStep | undefined;
};
