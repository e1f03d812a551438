/* Light or dark: the system's choice until the person makes another. The stylesheet reads `data-theme` on the root element. */

import { remember, remembered } from "/preferences.js";

const systemDark = matchMedia("(prefers-color-scheme: dark)");
let chosen = remembered("theme");

export function theme() {
  if (chosen === "light" || chosen === "dark") return chosen;
  return systemDark.matches ? "dark" : "light";
}

function apply() {
  document.documentElement.dataset.theme = theme();
}

export function toggleTheme() {
  chosen = theme() === "dark" ? "light" : "dark";
  remember("theme", chosen);
  apply();
}

// At once: the first paint waits for it.
apply();

/** Sets the theme again whenever the system's own choice changes. @param {() => void} onChange */
export function startTheme(onChange) {
  systemDark.addEventListener("change", () => {
    apply();
    onChange();
  });
}
