/*
 * The chat page: one state, one drawing, and what stands where.
 *
 * The other modules are views (state in, template out), plain values, or the deeds that change the state.
 */

import { html, nothing, render } from "/vendor/lit-html/lit-html.js";
import { alertView } from "/alert.js";
import { composerView, conversationView } from "/conversation.js";
import { closeDialog, dialogView, showDialogs } from "/dialog.js";
import { draw, drawWith, redraw, spoken } from "/drawing.js";
import { panelView } from "/grid.js";
import { headerView } from "/header.js";
import { historyView } from "/history.js";
import { language, t } from "/i18n.js";
import { keysView, listenToKeys } from "/keys.js";
import { dismissNotice, newChat, openDrawer, startLibrary, wasOpen } from "/library.js";
import { redrawSheet, showProof } from "/doors.js";
import { beginEdit } from "/message.js";
import { load, loadBlocks } from "/models.js";
import { paid, panels } from "/places.js";
import { follow, onScroll } from "/scroll.js";
import { openSettings, settingsView } from "/settings.js";
import { lastQuestion, state } from "/state.js";
import { keepSplash } from "/splash.js";
import { editDraft, promptBox, showDraft } from "/talk.js";
import { startTheme } from "/theme.js";

// Narrower than this, the history and the panel lie over the conversation.
const narrow = matchMedia("(max-width: 64rem)");

const app = /** @type {HTMLElement} */ (document.getElementById("app"));

panels.push({ name: "experts", title: () => t("grid.title"), view: expertsView });
let panelName = panels[0].name;

function expertsView() {
  if (state.model === null && state.report === null) return html`<p class="quiet-text">${t("grid.loading")}</p>`;
  const latest = state.thread.path().at(-1) ?? null;
  const panel = {
    report: state.report,
    failed: state.reportFailure,
    turn: state.shown,
    isLatest: state.shown === latest,
    expertsPerToken: state.model?.blyan.experts_per_token ?? 1,
    cursor: state.focused,
    inspected: state.pointed ?? state.focused,
  };
  const onRetry = () => state.model && loadBlocks(state.model.id);
  return panelView(panel, { onPoint: pointAt, onFocus: focusOn, onOpen: showProof, onRetry });
}

function sidePanel() {
  const { view } = panels.find(({ name }) => name === panelName) ?? panels[0];
  const pick = (/** @type {string} */ name) => {
    panelName = name;
    redraw();
  };
  const tabs = panels.map(
    ({ name, title }) => html`<button type="button" class="tab" aria-pressed=${name === panelName ? "true" : "false"} data-testid=${`panel-${name}`}
      @click=${() => pick(name)}>${title()}</button>`,
  );
  return html`<aside class="panel" id="panel" aria-label=${t("panel.label")} ?inert=${!state.isPanelOpen}>
    ${panels.length > 1 ? html`<div class="tabs">${tabs}</div>` : nothing} ${view()}
  </aside>`;
}

function noticeView() {
  if (state.notice === null) return nothing;
  const { words, undo } = state.notice;
  return html`<section class="notice" data-testid="notice" aria-label=${t("notice")}>
    <p dir="auto">${words}</p>
    ${undo ? html`<button type="button" class="button small" data-testid="undo" @click=${undo}>${t("undo")}</button>` : nothing}
    <button type="button" class="button small quiet" @click=${dismissNotice}>${t("dismiss")}</button>
  </section>`;
}

function pageView() {
  const isDrawer = narrow.matches;
  const isCovered = isDrawer && (state.isSideOpen || state.isPanelOpen);
  return html`${headerView(isDrawer)} ${historyView(isDrawer)}
    <main class="chat" ?inert=${isCovered}>
      <div class="scroll" id="scroll" data-testid="scroll" @scroll=${onScroll}>
        ${conversationView()} ${alertView(state.alert, { onDismiss: dismissAlert, deeds: remedies })}
      </div>
      ${composerView()}
    </main>
    ${sidePanel()} ${isCovered ? html`<div class="shade" @click=${leaveDrawers}></div>` : nothing} ${noticeView()} ${settingsView()}
    ${state.dialog === "keys" ? dialogView(t("keys.title"), keysView(), "keys-sheet") : nothing} ${paid.dialog()}
    <p class="sr-only" role="status">${spoken.words}</p>`;
}

function showPage() {
  // Only when it changes: the browser restyles every element, though the value be the same.
  if (document.documentElement.lang !== language()) document.documentElement.lang = language();
  const { title } = state.thread.record;
  document.title = title === "" ? t("page.title") : t("page.titleOf", { title });
  app.classList.toggle("side-open", state.isSideOpen);
  app.classList.toggle("panel-open", state.isPanelOpen);
  render(pageView(), app);
  showDialogs();
  redrawSheet();
  follow();
}

function dismissAlert() {
  state.alert = null;
  redraw();
  promptBox()?.focus();
}

/** The question of an answer that failed, as the draft of a new conversation. */
function askElsewhere() {
  const text = lastQuestion()?.text ?? "";
  newChat();
  showDraft(text);
  editDraft();
}

function editLast() {
  const question = lastQuestion();
  if (question) beginEdit(question);
}

const remedies = {
  new: askElsewhere,
  edit: editLast,
  settings: openSettings,
  models: load,
  signin: () => paid.open("signin"),
  account: () => paid.open("account"),
};

/** @param {string | null} part */
function pointAt(part) {
  if (state.pointed === part) return;
  state.pointed = part;
  redraw();
}

/** @param {string | null} part */
function focusOn(part) {
  if (part === null) return;
  state.focused = part;
  redraw();
}

/** On a narrow screen only one of them is open, and a wide one opens what was open there. */
function fitDrawers() {
  state.isSideOpen = !narrow.matches && wasOpen("side");
  state.isPanelOpen = !narrow.matches && wasOpen("panel");
  redraw();
}

/** @returns {boolean} whether one was open over the page */
function leaveDrawers() {
  if (!narrow.matches || !(state.isSideOpen || state.isPanelOpen)) return false;
  const which = state.isSideOpen ? "side" : "panel";
  openDrawer(which, false, false);
  const door = document.querySelector(`[data-testid="toggle-${which}"]`);
  if (door instanceof HTMLElement) door.focus();
  return true;
}

function searchHistory() {
  openDrawer("side", true, !narrow.matches);
  draw();
  const box = document.getElementById("search");
  if (box instanceof HTMLInputElement) box.select();
}

listenToKeys({
  newChat,
  search: searchHistory,
  side: () => openDrawer("side", !state.isSideOpen, !narrow.matches),
  settings: openSettings,
  sheet: () => {
    state.dialog = "keys";
    redraw();
  },
  prompt: () => promptBox()?.focus(),
  escape: () => {
    if (state.dialog === null) return leaveDrawers();
    closeDialog();
    return true;
  },
});
narrow.addEventListener("change", fitDrawers);
drawWith(showPage);
startTheme(redraw);
fitDrawers();
draw();
promptBox()?.focus({ preventScroll: true });
startLibrary().then(load);
addEventListener("load", keepSplash);
