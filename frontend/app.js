/*
 * The chat page: one state, one render, and what happens when a person or the node does something.
 *
 * The other modules are views (state in, template out) or plain values; only this one changes the state.
 */

import { html, render } from "/vendor/lit-html/lit-html.js";
import { alertView } from "/alert.js";
import { ApiError, blocksOf, listModels, streamChat } from "/api.js";
import { keepDamage, markCorrupt } from "/blocks.js";
import { composerView, conversationView } from "/conversation.js";
import { panelView } from "/grid.js";
import { headerView } from "/header.js";
import { language, t, toggleLanguage } from "/i18n.js";
import { remember, remembered } from "/preferences.js";
import { startTheme, toggleTheme } from "/theme.js";
import { messagesFor, Turn } from "/turn.js";

// Closer to the end than this, the view follows a growing answer.
const FOLLOW_WITHIN_PX = 120;
const COMPOSER_HEIGHT_MAX_PX = 220;

const state = {
  isLoading: true,
  models: [],
  model: null,
  report: null,
  reportFailure: null,
  turns: [],
  shown: null, // the turn whose experts the grid shows
  alert: null,
  draft: "",
  focused: null, // the part whose cell has, or last had, the focus
  pointed: null, // the part whose cell is under the pointer
};
let generation = null; // AbortController of the answer that streams now
let frame = null;
let sheet = null; // the module of the dialog, once it was needed

const app = document.getElementById("app");
const promptBox = () => document.getElementById("prompt");

function view() {
  const latest = state.turns.at(-1) ?? null;
  const isBusy = latest?.isOpen ?? false;
  const panel = {
    report: state.report,
    failed: state.reportFailure,
    turn: state.shown,
    isLatest: state.shown === latest,
    expertsPerToken: state.model?.blyan.experts_per_token ?? 1,
    cursor: state.focused,
    inspected: state.pointed ?? state.focused,
  };
  return html`${headerView(state, { onPick: pickModel, onNewChat: newChat, onLanguage: switchLanguage, onTheme: switchTheme, onStory: showStory })}
    <main class="chat">
      <div class="scroll" id="scroll">
        ${conversationView({ ...state, isBusy }, { onAsk: ask, onShow: showTurn, onExperts: showExperts })}
        ${alertView(state.alert, { onDismiss: dismissAlert })}
        <div id="end"></div>
      </div>
      ${composerView(
        { isBusy, canSend: state.model !== null && state.draft.trim() !== "" },
        { onSubmit: submit, onStop: stop, onInput: editDraft },
      )}
    </main>
    ${state.model === null && state.report === null
      ? html``
      : panelView(panel, { onPoint: pointAt, onFocus: focusOn, onOpen: showProof, onRetry: () => loadBlocks(state.model.id) })}`;
}

function draw() {
  frame = null;
  const end = document.getElementById("end");
  const viewBottom = document.getElementById("scroll")?.getBoundingClientRect().bottom ?? 0;
  const follow = end !== null && end.getBoundingClientRect().top < Math.min(viewBottom, innerHeight) + FOLLOW_WITHIN_PX;
  // Only when it changes: the browser restyles every element, though the value be the same.
  if (document.documentElement.lang !== language()) document.documentElement.lang = language();
  document.title = t("page.title");
  render(view(), app);
  if (follow && state.turns.length > 0) document.getElementById("end").scrollIntoView({ block: "end" });
}

/** Draws once per frame, however many tokens arrive. */
function redraw() {
  frame ??= requestAnimationFrame(draw);
  sheet?.redraw();
}

function asApiError(failure) {
  if (failure instanceof ApiError) return failure;
  throw failure;
}

async function load() {
  state.isLoading = true;
  state.alert = null;
  redraw();
  try {
    state.models = await listModels();
  } catch (failure) {
    state.alert = { error: asApiError(failure), refused: false, retry: load };
  }
  state.isLoading = false;
  const wanted = remembered("model");
  state.model = state.models.find(({ id }) => id === wanted) ?? state.models[0] ?? null;
  if (state.model === null && state.alert === null) {
    state.alert = { error: new ApiError({ code: "no_model", message: "" }), refused: false, retry: load };
  }
  redraw();
  if (state.model !== null) await openModel();
}

async function openModel() {
  const { id, blyan } = state.model;
  state.report = null;
  await loadBlocks(id);
  if (blyan.state === "refused" && blyan.reason && state.model.id === id) fail(ApiError.from(blyan.reason), null, true);
}

/** Damage that this page saw outlives a report, until a whole answer (`damageIsPast`) shows that the block was repaired. */
async function loadBlocks(modelId, damageIsPast = false) {
  let report = null;
  state.reportFailure = null;
  try {
    report = await blocksOf(modelId);
  } catch (failure) {
    if (state.model.id === modelId) state.reportFailure = asApiError(failure);
  }
  // The person may have picked another model while this report was on its way.
  if (report !== null && state.model.id === modelId) {
    const seen = damageIsPast ? [] : (state.report?.blocks ?? []);
    state.report = { ...report, blocks: keepDamage(seen, report.blocks) };
  }
  redraw();
}

function fail(error, retry, refused = false) {
  state.alert = { error, retry, refused };
  if (error.detail.payload && state.report !== null) {
    state.report = { ...state.report, blocks: markCorrupt(state.report.blocks, error.detail) };
  }
  redraw();
}

async function ask(prompt) {
  if (generation !== null || state.model === null) return;
  const controller = new AbortController();
  const turn = new Turn(prompt);
  const messages = messagesFor(state.turns, prompt);
  const modelId = state.model.id;
  generation = controller;
  state.alert = null;
  state.turns.push(turn);
  state.shown = turn;
  draw();
  document.getElementById("end").scrollIntoView({ block: "end" });
  try {
    for await (const chunk of streamChat({ model: modelId, messages, signal: controller.signal })) {
      turn.absorb(chunk, performance.now());
      redraw();
    }
    turn.finish();
  } catch (failure) {
    if (controller.signal.aborted) {
      turn.stop();
    } else {
      turn.fail();
      fail(asApiError(failure), () => askAgain(turn));
    }
  } finally {
    if (generation === controller) generation = null;
    redraw();
  }
  // A generation checks the blocks that it is the first to use, so their states may have changed.
  const settled = state.report?.blocks.every((block) => block.state === "verified");
  if (!settled && state.model.id === modelId) await loadBlocks(modelId, turn.state === "done" || turn.state === "length");
}

function askAgain(turn) {
  if (generation !== null) return;
  state.turns = state.turns.filter((other) => other !== turn);
  ask(turn.prompt);
}

function submit() {
  const prompt = promptBox().value.trim();
  if (prompt === "" || state.model === null || generation !== null) return;
  promptBox().value = "";
  editDraft();
  ask(prompt);
  promptBox().focus();
}

function stop() {
  generation?.abort();
  promptBox().focus();
}

function newChat() {
  generation?.abort();
  generation = null;
  state.turns = [];
  state.shown = null;
  state.alert = null;
  redraw();
  promptBox().focus();
}

function pickModel(id) {
  newChat();
  state.model = state.models.find((model) => model.id === id);
  remember("model", id);
  openModel();
}

function editDraft() {
  const box = promptBox();
  state.draft = box.value;
  // Through the CSSOM, which the content security policy allows; a style attribute would be refused.
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight, COMPOSER_HEIGHT_MAX_PX)}px`;
  redraw();
}

function showTurn(turn) {
  state.shown = turn;
  redraw();
}

/** What only this page has lies in a dialog whose code is loaded when it is first wanted. */
async function withSheet(show) {
  try {
    sheet ??= await import("/sheet.js");
  } catch {
    return fail(new ApiError({ code: "unreachable", message: "" }), null);
  }
  show(sheet);
}

function showExperts(turn) {
  withSheet(({ openExperts }) => openExperts(state.model, state.report?.blocks ?? [], turn));
}

function showProof(block) {
  withSheet(({ openProof }) => openProof(state.model, block));
}

function showStory() {
  withSheet(({ openStory }) => openStory(state.model, state.report?.blocks ?? []));
}

function dismissAlert() {
  state.alert = null;
  redraw();
  promptBox().focus();
}

function pointAt(part) {
  if (state.pointed === part) return;
  state.pointed = part;
  redraw();
}

function focusOn(part) {
  if (part === null) return;
  state.focused = part;
  redraw();
}

function switchLanguage() {
  toggleLanguage();
  redraw();
}

function switchTheme() {
  toggleTheme();
  redraw();
}

startTheme(redraw);
draw();
promptBox().focus({ preventScroll: true });
load();
