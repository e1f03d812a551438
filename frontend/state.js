/*
 * What the page shows, in one place. Views read it; `models`, `library` and `talk` change it.
 */

import { Thread } from "/thread.js";

/** @typedef {import("/turn.js").Turn} Turn */

export const state = {
  isLoading: true,
  /** The node has no accounts: whoever reaches it may ask. */
  isFree: false,
  /** @type {ModelCard[]} */
  models: [],
  /** @type {ModelCard | null} */
  model: null,
  /** @type {BlockReport | null} */
  report: null,
  /** @type {Error | null} */
  reportFailure: null,
  thread: Thread.begin(null),
  /** The answer whose experts the panel shows. @type {Turn | null} */
  shown: null,
  /** @type {Alert | null} */
  alert: null,
  draft: "",
  /** The question that is being edited, by id. @type {string | null} */
  editing: null,
  /** The part whose cell has, or last had, the focus. @type {string | null} */
  focused: null,
  /** The part whose cell is under the pointer. @type {string | null} */
  pointed: null,
  /** @type {ConversationRecord[]} */
  history: [],
  search: "",
  /** Ids of the conversations whose text has what is searched; null: not looked yet. @type {Set<string> | null} */
  found: null,
  /** The conversation whose title is being edited, by id. @type {string | null} */
  renaming: null,
  isHistoryLasting: true,
  /** A sentence at the bottom, perhaps with a way back. @type {{words: string, undo: (() => void) | null} | null} */
  notice: null,
  isAtEnd: true,
  /** Which dialog is open. @type {null | "settings" | "keys" | "signin" | "account" | "receipt"} */
  dialog: null,
  isSideOpen: false,
  isPanelOpen: false,
};

/** Answers on their way, by conversation. @type {Map<string, {controller: AbortController, turn: Turn, thread: Thread}>} */
export const running = new Map();

/** Another tab writes an answer of this conversation. */
export const isElsewhere = () => state.thread.elsewhere.length > 0;

export const isBusy = () => running.has(state.thread.record.id) || isElsewhere();

export const lastQuestion = () => {
  const message = state.thread.path().findLast(({ role }) => role === "user");
  return message?.role === "user" ? message : null;
};
