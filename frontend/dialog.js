/* A dialog above the page: modal, so that the browser keeps the focus in it and gives it back. */

import { html } from "/vendor/lit-html/lit-html.js";
import { redraw } from "/drawing.js";
import { t } from "/i18n.js";
import { icon } from "/icons.js";
import { state } from "/state.js";

export function closeDialog() {
  // Closed by the browser before it is gone: so the focus returns to where it came from.
  for (const dialog of document.querySelectorAll(/** @type {"dialog"} */ ("#app dialog"))) dialog.close();
  state.dialog = null;
  redraw();
}

/** Opens what was drawn: a template can only say that a dialog is there. */
export function showDialogs() {
  for (const dialog of document.querySelectorAll(/** @type {"dialog"} */ ("#app dialog"))) if (!dialog.open) dialog.showModal();
}

/** @param {string} title @param {unknown} body @param {string} name */
export function dialogView(title, body, name) {
  /** A press beside the dialog lies on the element itself, whose contents fill it. @param {MouseEvent} event */
  const onPress = (event) => {
    if (event.target === event.currentTarget) closeDialog();
  };
  return html`<dialog class="dialog" data-testid=${name} aria-labelledby="dialog-title" @close=${closeDialog} @mousedown=${onPress}>
    <div class="dialog-body">
      <header>
        <h2 id="dialog-title">${title}</h2>
        <button type="button" class="icon-button" data-testid="dialog-close" aria-label=${t("dismiss")} title=${t("dismiss")} @click=${closeDialog}>
          ${icon("close")}
        </button>
      </header>
      ${body}
    </div>
  </dialog>`;
}
