/* The splash: its words, and going to the page once a node answers. */

import { language, t } from "/i18n.js";
import { startTheme } from "/theme.js";

const ASK_AGAIN_MS = 2000;

document.documentElement.lang = language();
for (const element of document.querySelectorAll("[data-words]")) {
  if (element instanceof HTMLElement) element.textContent = t(/** @type {import("/i18n.js").WordKey} */ (element.dataset.words));
}
startTheme(() => {});

async function ask() {
  try {
    if ((await fetch("/livez", { cache: "no-store" })).ok) location.reload();
  } catch {
    // Not yet.
  }
  setTimeout(ask, ASK_AGAIN_MS);
}
setTimeout(ask, ASK_AGAIN_MS);
