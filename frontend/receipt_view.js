/* Receipts. */

import { nothing } from "/vendor/lit-html/lit-html.js";

/** @param {import("/turn.js").Turn} _turn */
export function showReceipt(_turn) {}

export function receiptView() {
  return nothing;
}
