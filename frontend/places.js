/*
 * Where further views attach, so that they need no change of the page's own modules.
 *
 * - `answerActions`: (turn) → template, in the row of buttons under each whole answer.
 * - `panels`: what the side panel can show; with more than one, it has tabs.
 * - `menuItems`: () → template, lines in the menu at the end of the header.
 * - `headerTools`: () → template, buttons in the header.
 * - `paid`: what a node with accounts adds (account.js); nothing on one without.
 */

import { nothing } from "/vendor/lit-html/lit-html.js";

/** @typedef {import("/vendor/lit-html/lit-html.js").TemplateResult | typeof import("/vendor/lit-html/lit-html.js").nothing} View */

/** @type {((turn: import("/turn.js").Turn) => View)[]} */
export const answerActions = [];

/** @type {(() => View)[]} */
export const menuItems = [];

/** @type {(() => View)[]} */
export const headerTools = [];

/** @typedef {{name: string, title: () => string, view: () => View}} Panel */
/** @type {Panel[]} */
export const panels = [];

/** @typedef {import("/turn.js").Turn} Turn */

export const paid = {
  /** Whether a question has to wait until somebody signed in. */
  waits: () => false,
  /** A request as it is sent. @type {(turn: Turn, body: {[name: string]: any}) => string} */
  write: (_, body) => JSON.stringify(body),
  /** A chunk of the answer; null when it has ended. @type {(turn: Turn, chunk: ChatChunk | null) => void} */
  take: () => {},
  /** What an answer costs, beside its other facts. @type {(turn: Turn) => View} */
  cost: () => nothing,
  /** Below the question. @type {() => View} */
  note: () => nothing,
  /** A dialog of its own. @type {() => View} */
  dialog: () => nothing,
  /** @type {(dialog: "signin" | "account") => void} */
  open: () => {},
};
