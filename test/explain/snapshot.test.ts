// What Explain says of a snapshot that is as wanted: what it is of, and whether it could be deleted.
import { describe, expect, it } from "vitest";
import { explainSnapshot } from "../../src/explain/snapshot.ts";
import { nodeFacts, snapshotView, UUID } from "../support/explain-facts.ts";
import { diskRow, VOLUME } from "../support/model.ts";

const explain = (view: ReturnType<typeof snapshotView>) =>
  explainSnapshot({
    view,
    disk: diskRow(),
    diskState: "UP",
    node: nodeFacts(),
    steps: [],
    inFlight: false,
  });

describe("Explain of a snapshot that is UP", () => {
  it("says of what volume it is, and how large", () => {
    const view = snapshotView();
    const { summary, checks } = explain(view);
    const of = `12 MiB of volume ${VOLUME}, read through its clones`;
    expect(summary).toBe(`snapshot ${view.row.id} is UP: ${of}`);
    expect(checks[0]).toMatchObject({ answer: "YES", evidence: `lvol ${UUID}, 12 MiB` });
  });

  it("names what keeps it from being deleted, and that is no fault", () => {
    const { summary, checks } = explain({
      ...snapshotView({ sourceLvolId: undefined }),
      clones: { made: ["c1", "c2"], pending: [] },
    });
    expect(summary).toContain("12 MiB of a volume,");
    expect(checks[1]).toMatchObject({ answer: "NO", evidence: "2 clones, 0 being made: c1, c2" });
  });
});
