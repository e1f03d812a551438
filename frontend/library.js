/* The history: opening, naming, deleting with a way back, searching, export and import, and what other tabs do to it. */

import { draftOf } from "/drafts.js";
import { announce, redraw } from "/drawing.js";
import { heldAnswers, whenLetGo } from "/holding.js";
import { t } from "/i18n.js";
import { pickModel } from "/models.js";
import { remember, remembered } from "/preferences.js";
import { pinToEnd } from "/scroll.js";
import { running, state } from "/state.js";
import { add, change, isLasting, listConversations, loadConversation, onOtherTab, purge, search } from "/store.js";
import { promptBox, showDraft } from "/talk.js";
import { Thread } from "/thread.js";
import { BadFile, exported, FILE_BYTES_MAX, imported } from "/transfer.js";

const UNDO_MS = 10_000;
const SEARCH_AFTER_MS = 150;
const TITLE_CHARS_MAX = 200;

export async function refreshHistory() {
  state.history = await listConversations();
  redraw();
}

/** @param {Thread} thread */
function show(thread) {
  state.thread = thread;
  const last = thread.path().at(-1);
  state.shown = last?.role === "assistant" ? last : null;
  state.alert = null;
  state.editing = null;
  history.replaceState(null, "", thread.isKept ? `#${thread.record.id}` : location.pathname);
  pinToEnd();
  showDraft(draftOf(thread.isKept ? thread.record.id : null));
  redraw();
}

/** A conversation as it is kept, with the answers that other tabs write. @param {string} id @returns {Promise<Thread | null>} */
async function readThread(id) {
  const held = await heldAnswers();
  // Read after that: what was let go since was kept before, and what was not is waited for.
  const kept = await loadConversation(id);
  if (kept === null) return null;
  const thread = Thread.from(kept.record, kept.messages, held);
  for (const turn of thread.elsewhere) whenLetGo(turn, () => otherTabChanged(id));
  return thread;
}

/** @param {string} id @returns {Promise<boolean>} false if there is none */
export async function openConversation(id) {
  const thread = running.get(id)?.thread ?? (await readThread(id));
  if (thread === null) return false;
  show(thread);
  if (thread.record.model !== null && thread.record.model !== state.model?.id) pickModel(thread.record.model);
  return true;
}

/** An empty conversation with the model of now. Settings are a conversation's own, so it begins without. */
export function newChat() {
  show(Thread.begin(state.model?.id ?? null));
  promptBox().focus();
}

/** The conversation that this tab showed before it was loaded again, and the sizes of the history. */
export async function startLibrary() {
  state.isHistoryLasting = await isLasting();
  onOtherTab(otherTabChanged);
  const wanted = location.hash.slice(1);
  if (wanted === "" || !(await openConversation(wanted))) showDraft(draftOf(null));
  await purge(Date.now() - UNDO_MS);
  await refreshHistory();
}

/** @param {string} id */
export async function otherTabChanged(id) {
  await refreshHistory();
  const { thread } = state;
  if (thread.record.id !== id || running.has(id) || !thread.isKept) return;
  const read = await readThread(id);
  if (state.thread !== thread || running.has(id)) return;
  if (read === null) return show(Thread.begin(state.model?.id ?? null));
  // Which branch this tab looks at is its own choice.
  read.record.chosen = { ...read.record.chosen, ...thread.record.chosen };
  state.thread = read;
  const shown = state.shown === null ? undefined : state.thread.messages.get(state.shown.id);
  state.shown = shown?.role === "assistant" ? shown : null;
  redraw();
}

/** @param {ConversationRecord} record @param {string} title */
export async function rename(record, title) {
  state.renaming = null;
  const words = title.replace(/\s+/g, " ").trim().slice(0, TITLE_CHARS_MAX);
  if (words !== "" && words !== record.title) {
    if (state.thread.record.id === record.id) state.thread.record.title = words;
    await change(record, { title: words });
  }
  await refreshHistory();
}

/** @type {ReturnType<typeof setTimeout> | null} */
let noticeEnd = null;

/** @param {string} words @param {(() => void) | null} undo */
export function notify(words, undo = null) {
  state.notice = { words, undo };
  announce(words);
  if (noticeEnd !== null) clearTimeout(noticeEnd);
  noticeEnd = setTimeout(dismissNotice, UNDO_MS);
}

export function dismissNotice() {
  state.notice = null;
  redraw();
}

/** Gone from the list at once, and for good after the way back is over. @param {ConversationRecord} record */
export async function remove(record) {
  const wasOpen = state.thread.record.id === record.id;
  running.get(record.id)?.controller.abort();
  if (wasOpen) newChat();
  await change(record, { deleted: Date.now() });
  await refreshHistory();
  const undo = async () => {
    dismissNotice();
    await change(record, { deleted: null });
    await refreshHistory();
    if (wasOpen) await openConversation(record.id);
  };
  notify(t("history.deleted", { title: record.title }), undo);
  setTimeout(async () => {
    const isBack = state.history.some(({ id }) => id === record.id);
    if (!isBack) remember(`draft.${record.id}`, null);
    await purge(Date.now() - UNDO_MS);
  }, UNDO_MS + 1000);
}

/** @type {ReturnType<typeof setTimeout> | null} */
let searching = null;

/** @param {string} words */
export function searchFor(words) {
  state.search = words;
  state.found = null;
  redraw();
  if (searching !== null) clearTimeout(searching);
  if (words.trim() === "") return;
  searching = setTimeout(async () => {
    const found = await search(words.trim());
    if (state.search !== words) return;
    state.found = found;
    redraw();
  }, SEARCH_AFTER_MS);
}

/** What the list shows: all, or what has the searched words in its title or its text. @returns {ConversationRecord[]} */
export function listed() {
  const words = state.search.trim().toLowerCase();
  if (words === "") return state.history;
  return state.history.filter(({ id, title }) => title.toLowerCase().includes(words) || state.found?.has(id));
}

/** @param {ConversationRecord[]} records */
export async function exportConversations(records) {
  const kept = [];
  for (const { id } of records) {
    const each = await loadConversation(id);
    if (each !== null) kept.push(each);
  }
  const now = new Date();
  const address = URL.createObjectURL(new Blob([exported(kept, now)], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = `blyan-${kept.length === 1 ? "chat" : "chats"}-${now.toISOString().slice(0, 10)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** @param {File} file */
export async function importFile(file) {
  if (file.size > FILE_BYTES_MAX) return notify(t("import.large", { size: FILE_BYTES_MAX / 1024 / 1024 }));
  try {
    let count = 0;
    const conversations = imported(await file.text());
    for (const kept of conversations) if (await add(kept)) count += 1;
    await refreshHistory();
    notify(t("import.done", { count, there: conversations.length - count }));
  } catch (failure) {
    if (!(failure instanceof BadFile)) throw failure;
    notify(t("import.bad", { reason: failure.message }));
  }
}

/** @param {"side" | "panel"} which @param {boolean} isOpen @param {boolean} isRemembered */
export function openDrawer(which, isOpen, isRemembered) {
  // Over the page there is room for one.
  if (which === "side" || (isOpen && !isRemembered)) state.isSideOpen = which === "side" && isOpen;
  if (which === "panel" || (isOpen && !isRemembered)) state.isPanelOpen = which === "panel" && isOpen;
  if (isRemembered) remember(`${which}.open`, isOpen ? "yes" : "no");
  redraw();
}

/** @param {"side" | "panel"} which */
export const wasOpen = (which) => remembered(`${which}.open`) !== "no";

