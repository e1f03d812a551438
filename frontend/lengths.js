/* How much text the node takes at once: more is said, never cut. */

import { byteSize, t } from "/i18n.js";

/** UTF-8 bytes of one text; `prompt_bytes_max` of the node. */
export const TEXT_BYTES_MAX = 2 * 1024 * 1024;
const CHAR_BYTES_MAX = 3; // of one UTF-16 unit

/** What to say of a text that is too long; empty for one that is not. @param {string} text */
export function excessOf(text) {
  const over = text.length * CHAR_BYTES_MAX > TEXT_BYTES_MAX ? new Blob([text]).size - TEXT_BYTES_MAX : 0;
  return over > 0 ? t("prompt.tooLong", { over: byteSize(over), limit: byteSize(TEXT_BYTES_MAX) }) : "";
}

/** Says at a field what is wrong with it, while there is anything. @param {HTMLTextAreaElement} box @param {string} words */
export function complain(box, words) {
  box.setCustomValidity(words);
  return box.reportValidity();
}

/** @param {Event} event of typing in a field */
export const sayExcess = ({ target }) => {
  const box = /** @type {HTMLTextAreaElement} */ (target);
  complain(box, excessOf(box.value));
};
