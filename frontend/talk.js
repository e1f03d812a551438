/* Asking, answering anew, going on, editing, stopping: what happens between a question and the end of its answer. */

import { streamChat } from "/api.js";
import { draw, redraw } from "/drawing.js";
import { keepDraft } from "/drafts.js";
import { hold } from "/holding.js";
import { excessOf } from "/lengths.js";
import { otherTabChanged, refreshHistory } from "/library.js";
import { asApiError, fail, loadBlocks } from "/models.js";
import { paid } from "/places.js";
import { pinToEnd } from "/scroll.js";
import { isBusy, running, state } from "/state.js";
import { removeMessage, save } from "/store.js";

/** @typedef {import("/thread.js").Question} Question */
/** @typedef {import("/turn.js").Turn} Turn */
/** @typedef {import("/thread.js").Thread} Thread */

const SAVE_EVERY_MS = 2000;
const WORK_MS_MAX = 8;

export const promptBox = () => /** @type {HTMLTextAreaElement} */ (document.getElementById("prompt"));

/** A history that cannot be written must not cost the answer: the page says so and goes on. @param {Promise<unknown>} writing */
function keep(writing) {
  return writing.catch(() => {
    state.isHistoryLasting = false;
    redraw();
  });
}

/** @param {Thread} thread @param {MessageRecord[]} messages */
function keepMessages(thread, messages) {
  const { record } = thread;
  const { updated, chosen, title } = record;
  const isNew = !thread.isKept;
  thread.isKept = true;
  return keep(save(record, isNew ? { updated, chosen, title } : { updated, chosen }, messages, isNew).then(refreshHistory));
}

/** Asks below the last message that is shown. @param {string} text */
export function ask(text) {
  if (isBusy() || state.model === null || paid.waits()) return;
  const last = state.thread.path().at(-1) ?? null;
  askBelow(last?.role === "user" ? last.parent : (last?.id ?? null), text);
}

/** @param {string | null} parent @param {string} text */
function askBelow(parent, text) {
  if (state.model === null) return;
  const { thread, model } = state;
  if (!thread.isKept) {
    thread.record.model = model.id;
    rememberOpen(thread);
  }
  const question = thread.ask(parent, text);
  answer(thread, question, [question]);
}

/** After a reload this tab opens the same conversation. @param {Thread} thread */
function rememberOpen(thread) {
  history.replaceState(null, "", `#${thread.record.id}`);
}

/** Another answer to the same question, beside the former one. @param {Turn} turn */
export function answerAgain(turn) {
  const question = state.thread.messages.get(turn.parent);
  if (isBusy() || state.model === null || question?.role !== "user") return;
  if (turn.text === "") discard(state.thread, turn);
  answer(state.thread, question, []);
}

/** @param {Thread} thread @param {Turn} turn */
function discard(thread, turn) {
  thread.drop(turn);
  keep(removeMessage(turn.id, thread.record.id));
}

/** The question in other words, beside the former one. @param {Question} question @param {string} text */
export function editQuestion(question, text) {
  state.editing = null;
  if (isBusy() || text.trim() === "") return redraw();
  askBelow(question.parent, text.trim());
  promptBox().focus();
}

/** @param {Thread} thread @param {Question} question @param {Question[]} unsaved */
function answer(thread, question, unsaved) {
  const turn = thread.answer(question, state.model?.id ?? null);
  stream(thread, turn, false, unsaved);
}

/** Goes on with an answer that was cut, where it was cut. @param {Turn} turn */
export function goOn(turn) {
  if (isBusy() || state.model === null || !turn.isCut) return;
  turn.reopen();
  stream(state.thread, turn, true, []);
}

/** @param {Thread} thread @param {Turn} turn @param {boolean} isContinued @param {Question[]} unsaved */
async function stream(thread, turn, isContinued, unsaved) {
  const { model } = state;
  if (model === null) return;
  const { id } = thread.record;
  const controller = new AbortController();
  const path = thread.pathTo(turn);
  const messages = thread.messagesFor(isContinued ? path : path.slice(0, -1));
  running.set(id, { controller, turn, thread });
  state.alert = null;
  state.shown = turn;
  pinToEnd();
  draw();
  // Held before it is kept as open, and until its end is kept: an open answer that nobody holds counts as cut.
  const letGo = await hold(turn.id);
  if (letGo === null) {
    running.delete(id);
    return otherTabChanged(id);
  }
  keepMessages(thread, [...unsaved, turn.record]);
  try {
    const write = (/** @type {{[name: string]: any}} */ body) => paid.write(turn, body);
    await receive(thread, turn, { model: model.id, messages, sampling: thread.record.sampling, isContinued, signal: controller.signal, write });
    turn.finish();
  } catch (failure) {
    if (controller.signal.aborted) turn.stop();
    else {
      turn.fail();
      const retry = () => (isContinued ? goOn(turn) : answerAgain(turn));
      if (state.thread === thread) fail(asApiError(failure), retry);
    }
  } finally {
    running.delete(id);
    paid.take(turn, null);
    keepMessages(thread, [turn.record]).then(letGo);
    redraw();
  }
  // A generation checks the blocks that it is the first to use, so their states may have changed.
  const settled = state.report?.blocks.every((block) => block.state === "verified");
  if (!settled && state.model === model) await loadBlocks(model.id, turn.state === "done" || turn.state === "length");
}

/** @param {Thread} thread @param {Turn} turn @param {Parameters<typeof streamChat>[0]} request */
async function receive(thread, turn, request) {
  let savedMs = performance.now();
  let breathedMs = savedMs;
  for await (const chunk of streamChat(request)) {
    const nowMs = performance.now();
    turn.absorb(chunk, nowMs);
    paid.take(turn, chunk);
    if (state.thread === thread) redraw();
    // What has arrived already comes without a pause: the page must draw and take keys in between.
    if (nowMs - breathedMs > WORK_MS_MAX) {
      await new Promise((resolve) => setTimeout(resolve));
      breathedMs = performance.now();
    }
    if (nowMs - savedMs < SAVE_EVERY_MS) continue;
    savedMs = nowMs;
    keep(save(thread.record, {}, [turn.record]));
  }
}

/** Keeps an answer of the open conversation as it is now. @param {Turn} turn */
export const keepTurn = (turn) => keep(save(state.thread.record, {}, [turn.record]));

export function stopAnswer() {
  running.get(state.thread.record.id)?.controller.abort();
  promptBox().focus();
}

/** Shows another of the messages that stand in one place. @param {import("/thread.js").Message} message */
export function chooseBranch(message) {
  const { thread } = state;
  thread.choose(message);
  const last = thread.path().at(-1);
  if (last?.role === "assistant") state.shown = last;
  keep(save(thread.record, { chosen: thread.record.chosen }, []));
  redraw();
}

/** Sends what stands in the text area. */
export function submit() {
  const box = promptBox();
  const text = box.value.trim();
  if (text === "" || excessOf(box.value) !== "" || state.model === null || isBusy() || paid.waits()) return;
  box.value = "";
  // Before the question has given the conversation its place in the history: the draft lay where it was written.
  keepDraft(state.thread.isKept ? state.thread.record.id : null, "");
  state.draft = "";
  fitPrompt();
  ask(text);
  box.focus();
}

export function editDraft() {
  state.draft = promptBox().value;
  keepDraft(state.thread.isKept ? state.thread.record.id : null, state.draft);
  fitPrompt();
  redraw();
}

/** Puts a draft into the text area. @param {string} text */
export function showDraft(text) {
  promptBox().value = text;
  state.draft = text;
  fitPrompt();
}

/** The text area is as high as its text, up to a limit that the stylesheet gives. */
function fitPrompt() {
  const box = promptBox();
  // Through the CSSOM, which the content security policy allows; a style attribute would be refused.
  box.style.height = "auto";
  if (box.value !== "") box.style.height = `${box.scrollHeight}px`;
}
