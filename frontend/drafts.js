/*
 * What a person has typed and not sent, one draft for each conversation.
 *
 * Kept synchronously, so that closing the tab a moment later loses nothing. A conversation that was never sent has no entry in the
 * history; its draft is this tab's own, and the newest such draft waits for the next tab.
 */

import { remember, remembered } from "/preferences.js";

const NEW = "draft.new";

/** @param {() => void} action */
function ifAllowed(action) {
  try {
    action();
  } catch {
    // Session storage is forbidden: the draft lives as long as the text area.
  }
}

/**
 * @param {string | null} conversation null for one that was never sent
 * @returns {string}
 */
export function draftOf(conversation) {
  if (conversation !== null) return remembered(`draft.${conversation}`) ?? "";
  /** @type {string | null} */
  let own = null;
  ifAllowed(() => (own = sessionStorage.getItem(NEW)));
  return own ?? remembered(NEW) ?? "";
}

/**
 * @param {string | null} conversation
 * @param {string} text empty forgets the draft
 */
export function keepDraft(conversation, text) {
  if (conversation !== null) {
    remember(`draft.${conversation}`, text === "" ? null : text);
    return;
  }
  const before = draftOf(null);
  ifAllowed(() => sessionStorage.setItem(NEW, text));
  // What another tab left there is not this tab's to forget.
  if (text !== "" || remembered(NEW) === before) remember(NEW, text === "" ? null : text);
}
