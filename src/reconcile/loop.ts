// The one shape of a reconciler loop.
//
// A loop says what it converges (`over`), and its `plan` says which steps bring one object nearer to
// what is wanted: a pure, synchronous function of a view, time included. A wake-up carries no data;
// it says "look at this object", never "this changed". A plan that returns nothing is content, or
// waits for an observation that will wake it. There are no retries inside a step: the next pass is
// the retry, after a back-off that the driver keeps per object and that a new intent clears.
//
// Steps are handed to lanes and a pass does not wait for them; an object with a step of this loop in
// flight is busy and is planned again when the answer is in.
import type { DiskView } from "./disk/view.ts";
import type { DiskStep, VolumeStep } from "./steps.ts";
import type { VolumePlanView } from "./lvol/view.ts";

type Common = { readonly name: string };

export type VolumeLoop = Common & {
  readonly over: "lvol";
  readonly plan: (view: VolumePlanView) => VolumeStep | undefined;
};

export type DiskLoop = Common & {
  readonly over: "disk";
  readonly plan: (view: DiskView) => DiskStep | undefined;
};
