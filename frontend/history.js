/* The list of conversations at the side: search, open, name, delete; and below it what belongs to the page as a whole. */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { repeat } from "/vendor/lit-html/directives/repeat.js";
import { redraw } from "/drawing.js";
import { language, t, toggleLanguage } from "/i18n.js";
import { icon } from "/icons.js";
import { exportConversations, importFile, listed, openConversation, openDrawer, remove, rename, searchFor } from "/library.js";
import { running, state } from "/state.js";
import { theme, toggleTheme } from "/theme.js";

/** @param {ConversationRecord} record */
function beginRename(record) {
  state.renaming = record.id;
  redraw();
  requestAnimationFrame(() => {
    const box = document.getElementById("rename");
    if (box instanceof HTMLInputElement) box.select();
  });
}

/** @param {ConversationRecord} record */
function renameForm(record) {
  /** @param {Event} event */
  const onSubmit = (event) => {
    event.preventDefault();
    rename(record, /** @type {HTMLInputElement} */ (document.getElementById("rename")).value);
  };
  /** @param {KeyboardEvent} event */
  const onKey = (event) => {
    if (event.key !== "Escape" || event.isComposing) return;
    event.stopPropagation();
    rename(record, "");
  };
  return html`<form class="rename" @submit=${onSubmit}>
    <input id="rename" data-testid="rename-text" maxlength="200" dir="auto" aria-label=${t("history.title")} .value=${record.title} @keydown=${onKey}
      @blur=${(/** @type {FocusEvent} */ event) => state.renaming === record.id && rename(record, /** @type {HTMLInputElement} */ (event.target).value)} />
  </form>`;
}

/** @param {ConversationRecord} record @param {() => void} onLeave */
function lineView(record, onLeave) {
  const { id, title } = record;
  const isOpen = state.thread.record.id === id;
  const open = async () => {
    onLeave();
    if (!isOpen) await openConversation(id);
    document.getElementById("prompt")?.focus();
  };
  if (state.renaming === id) return html`<li class="line">${renameForm(record)}</li>`;
  const busy = running.has(id) ? html`<span class="busy" role="img" aria-label=${t("history.busy")}></span>` : nothing;
  return html`<li class=${isOpen ? "line open" : "line"} data-testid="history-line">
    <button type="button" class="line-title" data-testid="history-open" dir="auto" title=${title} aria-current=${isOpen ? "true" : nothing} @click=${open}>
      <bdi>${title}</bdi>
    </button>
    ${busy}
    <span class="line-actions">
      <button type="button" class="icon-button" data-testid="history-rename" aria-label=${t("history.rename", { title })} title=${t("history.renameShort")}
        @click=${() => beginRename(record)}>${icon("edit")}</button>
      <button type="button" class="icon-button" data-testid="history-delete" aria-label=${t("history.delete", { title })} title=${t("history.deleteShort")}
        @click=${() => remove(record)}>${icon("trash")}</button>
    </span>
  </li>`;
}

/** The conversations under the words that say how old they are. @param {ConversationRecord[]} records @param {Date} now */
function byAge(records, now) {
  const today = new Date(now.getFullYear(), now.getMonth(), now.getDate()).getTime();
  const day = 24 * 3600 * 1000;
  /** @type {{key: "history.today" | "history.week" | "history.older", since: number, records: ConversationRecord[]}[]} */
  const ages = [
    { key: "history.today", since: today, records: [] },
    { key: "history.week", since: today - 6 * day, records: [] },
    { key: "history.older", since: -Infinity, records: [] },
  ];
  for (const record of records) ages.find(({ since }) => record.updated >= since)?.records.push(record);
  return ages.filter((age) => age.records.length > 0);
}

/** @param {() => void} onLeave */
function listView(onLeave) {
  const records = listed();
  if (records.length === 0) {
    return html`<p class="quiet-text none" data-testid="history-none">${t(state.search.trim() === "" ? "history.empty" : "history.nothing")}</p>`;
  }
  return byAge(records, new Date()).map(
    ({ key, records: lines }) => html`<h2>${t(key)}</h2>
      <ul>${repeat(lines, ({ id }) => id, (record) => lineView(record, onLeave))}</ul>`,
  );
}

/** @param {Event} event */
async function onImport({ target }) {
  const input = /** @type {HTMLInputElement} */ (target);
  const file = input.files?.[0];
  if (file) await importFile(file);
  input.value = "";
}

function footerView() {
  const dark = theme() === "dark";
  const themeLabel = t(dark ? "theme.toLight" : "theme.toDark");
  const sheet = () => {
    state.dialog = "keys";
    redraw();
  };
  return html`<footer class="side-foot">
    <p class="side-files">
      <button type="button" class="link" data-testid="export" ?disabled=${state.history.length === 0} @click=${() => exportConversations(state.history)}>
        ${t("history.export")}
      </button>
      <label class="link file"><input type="file" class="sr-only" data-testid="import" accept="application/json,.json" @change=${onImport} />${t("history.import")}</label>
    </p>
    <p class="side-tools">
      <button type="button" class="button tool" data-testid="lang" lang=${language() === "en" ? "ko" : "en"} aria-label=${t("lang.label")} title=${t("lang.label")}
        @click=${() => { toggleLanguage(); redraw(); }}>${t("lang.other")}</button>
      <button type="button" class="icon-button" data-testid="theme" aria-label=${themeLabel} title=${themeLabel}
        @click=${() => { toggleTheme(); redraw(); }}>${icon(dark ? "sun" : "moon")}</button>
      <button type="button" class="icon-button" data-testid="keys" aria-label=${t("keys.title")} title=${t("keys.title")} @click=${sheet}>
        <span aria-hidden="true">?</span>
      </button>
    </p>
  </footer>`;
}

/** @param {boolean} isDrawer it lies over the page, and goes when a conversation is opened */
export function historyView(isDrawer) {
  const leave = () => {
    if (isDrawer) openDrawer("side", false, false);
  };
  return html`<nav class="side" id="side" aria-label=${t("history.label")} ?inert=${!state.isSideOpen}>
    <div class="search">
      ${icon("search")}
      <input id="search" type="search" data-testid="search" maxlength="200" dir="auto" aria-label=${t("history.search")} placeholder=${t("history.search")}
        .value=${state.search} @input=${(/** @type {InputEvent} */ event) => searchFor(/** @type {HTMLInputElement} */ (event.target).value)} />
    </div>
    <div class="lines" data-testid="history">${listView(leave)}</div>
    ${state.isHistoryLasting ? nothing : html`<p class="quiet-text none" data-testid="history-fleeting">${t("history.fleeting")}</p>`}
    ${footerView()}
  </nav>`;
}
