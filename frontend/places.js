/*
 * Where further views attach, so that they need no change of the page's own modules.
 *
 * - `answerActions`: (turn) → template, in the row of buttons under each whole answer.
 * - `panels`: what the side panel can show; with more than one, it has tabs.
 * - `menuItems`: () → template, lines in the menu at the end of the header.
 * - `headerTools`: () → template, buttons in the header.
 */

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
