// The LED of a slot that shows people where a drive is.

export type LedKind = "npem" | "enclosure";

/** address: of the function in the slot, or that was there last. */
export type Located = { readonly kind: LedKind; readonly address: string; readonly on: boolean };
