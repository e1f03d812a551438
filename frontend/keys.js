/* What the keyboard does outside of a form's own keys, and the sheet that says so. */

import { html } from "/vendor/lit-html/lit-html.js";
import { t } from "/i18n.js";

const COMMAND = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘" : "Ctrl";

/** The shortcuts, in the order of the sheet. */
const SHORTCUTS = /** @type {const} */ ([
  [["Enter"], "keys.send"],
  [["Shift", "Enter"], "keys.line"],
  [["Esc"], "keys.stop"],
  [["↑"], "keys.edit"],
  [["/"], "keys.prompt"],
  [[COMMAND, "Shift", "O"], "keys.new"],
  [[COMMAND, "K"], "keys.search"],
  [[COMMAND, "B"], "keys.side"],
  [[COMMAND, ","], "keys.settings"],
  [["?"], "keys.sheet"],
]);

/**
 * @typedef {{newChat: () => void, search: () => void, side: () => void, settings: () => void, sheet: () => void, prompt: () => void,
 *   escape: () => boolean}} Deeds `escape` says whether there was something to leave
 */

/** @param {KeyboardEvent} event @param {Deeds} deeds @returns {(() => unknown) | null} */
function deedOf(event, deeds) {
  if (event.metaKey || event.ctrlKey) {
    if (event.altKey) return null;
    const key = event.key.toLowerCase();
    if (event.shiftKey) return key === "o" ? deeds.newChat : null;
    return key === "k" ? deeds.search : key === "b" ? deeds.side : key === "," ? deeds.settings : null;
  }
  if (event.target instanceof HTMLElement && event.target.closest("textarea, input, select, [contenteditable]")) return null;
  if (event.altKey) return null;
  return event.key === "?" ? deeds.sheet : event.key === "/" ? deeds.prompt : null;
}

/** @param {Deeds} deeds */
export function listenToKeys(deeds) {
  addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented) return;
    if (event.key === "Escape" && deeds.escape()) return event.preventDefault();
    // An open dialog has the keyboard for itself.
    if (document.querySelector("dialog[open]") !== null) return;
    const deed = deedOf(event, deeds);
    if (deed === null) return;
    event.preventDefault();
    deed();
  });
}

export function keysView() {
  return html`<dl class="shortcuts" data-testid="shortcuts">
    ${SHORTCUTS.map(
      ([keys, words]) =>
        html`<div><dt>${t(words)}</dt><dd>${keys.map((key) => html`<kbd>${key}</kbd>`)}</dd></div>`,
    )}
  </dl>`;
}
