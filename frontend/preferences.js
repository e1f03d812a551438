/* What the page remembers between visits. A browser that forbids storage gets a page that forgets, not a page that fails. */

/**
 * @param {string} name
 * @returns {string | null}
 */
export function remembered(name) {
  try {
    return localStorage.getItem(`blyan.${name}`);
  } catch {
    return null;
  }
}

/**
 * @param {string} name
 * @param {string | null} value null forgets
 */
export function remember(name, value) {
  try {
    if (value === null) localStorage.removeItem(`blyan.${name}`);
    else localStorage.setItem(`blyan.${name}`, value);
  } catch {
    // Storage is full or forbidden; the choice still holds until the page is closed.
  }
}
