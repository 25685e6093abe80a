// Which part of the agent writes a column. Every field of a row type is listed once with its owner:
// a new field without an owner does not compile. The SET lists of the statements are derived from
// it.

/**
 * - fixed: written when the row is inserted and never again.
 * - intent: desired state, written by admission.
 * - status: observed state, written when loops record it.
 * - both: written when loops record it, and set or reset by admission.
 * - writer: written by the writer itself with every change of the row.
 */
export type ColumnOwner = "fixed" | "intent" | "status" | "both" | "writer";

/** The fields of a row that belong to one of the owners. */
export type OwnedBy<Columns, Owner extends ColumnOwner> = {
  [Field in keyof Columns]: Columns[Field] extends Owner ? Field : never;
}[keyof Columns];
