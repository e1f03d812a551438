/* A button that copies text and says that it did. */

import { html } from "/vendor/lit-html/lit-html.js";
import { icon } from "/icons.js";
import { t } from "/i18n.js";
import { announce } from "/drawing.js";

const SAID_MS = 1500;

/** Without the clipboard API, which plain HTTP to another machine has not. @param {string} text */
function copyBySelection(text) {
  const box = document.createElement("textarea");
  box.value = text;
  box.className = "sr-only";
  document.body.append(box);
  box.select();
  const done = document.execCommand("copy");
  box.remove();
  return done;
}

/** @param {string} text @returns {Promise<boolean>} */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

/** @param {() => string} text */
export function copyButton(text) {
  /** @param {Event} event */
  const copy = async ({ currentTarget }) => {
    const button = /** @type {HTMLButtonElement} */ (currentTarget);
    const done = await copyText(text());
    button.focus();
    announce(t(done ? "copied" : "copyFailed"));
    if (!done) return;
    button.dataset.done = "";
    setTimeout(() => delete button.dataset.done, SAID_MS);
  };
  return html`<button type="button" class="icon-button copy" data-testid="copy" aria-label=${t("copy")} title=${t("copy")} @click=${copy}>
    ${icon("copy")}${icon("check")}
  </button>`;
}
