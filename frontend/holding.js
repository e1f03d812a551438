/*
 * Which tab writes an answer: the one that holds the answer's Web Lock. The browser takes the lock from a tab that is gone, so an
 * answer that is kept as open and that nobody holds was cut.
 *
 * A tab lets go only after the end of the answer was kept. Browsers have locks in secure contexts only; elsewhere every open answer
 * that this tab does not write counts as cut.
 */

const PREFIX = "blyan.answer.";
const HOLD_LIMIT_MS = 2000;
const { locks } = /** @type {{locks?: LockManager}} */ (navigator);

/**
 * Takes an answer for this tab.
 * @param {string} id
 * @returns {Promise<(() => void) | null>} lets it go again; null when another tab writes it
 */
export function hold(id) {
  if (locks === undefined) return Promise.resolve(() => {});
  return new Promise((taken) => {
    // Tabs that waited for the end of this answer hold it for a moment, one after the other; so this waits, too.
    locks
      .request(PREFIX + id, { signal: AbortSignal.timeout(HOLD_LIMIT_MS) }, () => new Promise((letGo) => taken(() => letGo(null))))
      .catch(({ name }) => taken(name === "TimeoutError" ? null : () => {}));
  });
}

/** Ids of the answers that some tab writes. @returns {Promise<Set<string>>} */
export async function heldAnswers() {
  const { held = [] } = (await locks?.query().catch(() => null)) ?? {};
  return new Set(held.map(({ name }) => name ?? "").filter((name) => name.startsWith(PREFIX)).map((name) => name.slice(PREFIX.length)));
}

/** @type {Set<string>} */
const awaited = new Set();

/** Calls back once the tab that writes this answer let it go, or is gone. @param {string} id @param {() => void} callback */
export function whenLetGo(id, callback) {
  if (locks === undefined || awaited.has(id)) return;
  awaited.add(id);
  locks.request(PREFIX + id, { mode: "shared" }, () => void awaited.delete(id)).then(callback, () => {});
}
