/* What the page remembers between visits. A browser that forbids storage gets a page that forgets, not a page that fails. */

export function remembered(name) {
  try {
    return localStorage.getItem(`blyan.${name}`);
  } catch {
    return null;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`blyan.${name}`, value);
  } catch {
    // Storage is full or forbidden; the choice still holds until the page is closed.
  }
}
