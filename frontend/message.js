/* A question and an answer as they stand in the conversation, with what can be done to them. */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { sendingKeys } from "/composition.js";
import { copyButton } from "/copy.js";
import { redraw } from "/drawing.js";
import { t } from "/i18n.js";
import { icon } from "/icons.js";
import { sayExcess } from "/lengths.js";
import { markdownView } from "/markdown.js";
import { answerActions, paid } from "/places.js";
import { isBusy, state } from "/state.js";
import { answerAgain, chooseBranch, editQuestion, goOn } from "/talk.js";

/** @typedef {import("/thread.js").Question} Question */
/** @typedef {import("/thread.js").Message} Message */
/** @typedef {import("/turn.js").Turn} Turn */

/** ‹ 2/3 ›: the other messages in this place. @param {Message} message */
function branchesView(message) {
  const siblings = state.thread.siblings(message);
  if (siblings.length < 2) return nothing;
  const at = siblings.indexOf(message);
  const step = (/** @type {-1 | 1} */ by, /** @type {"left" | "right"} */ sign) => {
    const words = t(by < 0 ? "branch.before" : "branch.after");
    const other = siblings[at + by];
    return html`<button type="button" class="icon-button" data-testid=${`branch-${sign}`} aria-label=${words} title=${words}
      ?disabled=${other === undefined || isBusy()} @click=${() => chooseBranch(other)}>${icon(sign)}</button>`;
  };
  return html`<span class="branches" data-testid="branches" role="group" aria-label=${t("branch.label")}>
    ${step(-1, "left")}<span>${at + 1}/${siblings.length}</span>${step(1, "right")}
  </span>`;
}

/** @param {keyof typeof ACTIONS} name @param {() => void} onClick */
function action(name, onClick) {
  const words = t(ACTIONS[name].words);
  return html`<button type="button" class="icon-button" data-testid=${name} aria-label=${words} title=${words} ?disabled=${isBusy()}
    @click=${onClick}>${icon(ACTIONS[name].icon)}</button>`;
}

const ACTIONS = /** @type {const} */ ({
  edit: { words: "question.edit", icon: "edit" },
  again: { words: "answer.again", icon: "again" },
});

/** Opens the form that edits a question, with the focus in it. @param {Question} question */
export function beginEdit(question) {
  state.editing = question.id;
  redraw();
  requestAnimationFrame(() => {
    const box = document.getElementById("edit");
    if (!(box instanceof HTMLTextAreaElement)) return;
    box.value = question.text;
    box.style.height = `${box.scrollHeight}px`;
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
  });
}

/** @param {Question} question */
function cancelEdit(question) {
  state.editing = null;
  redraw();
  requestAnimationFrame(() => {
    const button = document.querySelector(`[data-id="${question.id}"] [data-testid="edit"]`);
    if (button instanceof HTMLElement) button.focus();
  });
}

function sendEdited() {
  const box = document.getElementById("edit");
  const question = state.thread.messages.get(state.editing ?? "");
  if (box instanceof HTMLTextAreaElement && box.reportValidity() && question?.role === "user") editQuestion(question, box.value);
}

const editKeys = sendingKeys(sendEdited);

/** @param {Question} question */
function editForm(question) {
  /** @param {KeyboardEvent} event */
  const onKey = (event) => {
    if (event.key === "Escape" && !event.isComposing) cancelEdit(question);
    editKeys.onKeydown(event);
  };
  /** @param {Event} event */
  const onSubmit = (event) => {
    event.preventDefault();
    sendEdited();
  };
  return html`<form class="edit" @submit=${onSubmit}>
    <textarea id="edit" data-testid="edit-text" dir="auto" aria-label=${t("question.edit")} @input=${sayExcess} @keydown=${onKey}
      @compositionend=${editKeys.onCompositionEnd}></textarea>
    <p class="edit-note quiet-text">${t("question.note")}</p>
    <p class="edit-actions">
      <button type="button" class="button quiet" data-testid="edit-cancel" @click=${() => cancelEdit(question)}>${t("cancel")}</button>
      <button type="submit" class="button send" data-testid="edit-send" ?disabled=${isBusy()}>${t("send")}</button>
    </p>
  </form>`;
}

/** @param {Question} question */
export function questionView(question) {
  const isEdited = state.editing === question.id;
  // No white space inside `.text`: it is pre-wrap, so the template's own would be shown.
  return html`<article class="message user" data-testid="message-user" data-id=${question.id}>
    <h2 class="sr-only">${t("turn.you")}</h2>
    ${isEdited
      ? editForm(question)
      : html`<div class="text" dir="auto">${question.text}</div>
          <div class="actions">
            ${branchesView(question)} ${copyButton(() => question.text)} ${action("edit", () => beginEdit(question))}
          </div>`}
  </article>`;
}

/** @param {Turn} turn */
function remarks(turn) {
  const { state: end, completionTokens, rate, work } = turn;
  const words = [];
  if (end === "stopped" || end === "length" || end === "failed") words.push(t(`turn.${end}`));
  if (completionTokens !== null) words.push(t("turn.tokens", { count: completionTokens }));
  if (rate !== null) words.push(t("turn.rate", { rate: rate.toFixed(rate < 10 ? 1 : 0) }));
  if (work.expertsUsed > 0) words.push(t("turn.experts", { count: work.expertsUsed }));
  return words;
}

/** @param {Turn} turn @param {boolean} isLast */
function footer(turn, isLast) {
  const showExperts = () => {
    state.shown = turn;
    redraw();
  };
  const other = state.models.length > 1 && turn.model !== null ? html`<span><bdi>${turn.model}</bdi></span>` : nothing;
  return html`<div class="actions" data-testid="answer-actions">
      ${turn.isCut && isLast
        ? html`<button type="button" class="button small" data-testid="continue" ?disabled=${isBusy()} @click=${() => goOn(turn)}>
            ${icon("onward")}${t("answer.continue")}
          </button>`
        : nothing}
      ${branchesView(turn)} ${turn.text === "" ? nothing : copyButton(() => turn.text)} ${action("again", () => answerAgain(turn))}
      ${answerActions.map((view) => view(turn))}
    </div>
    <p class="remarks" data-testid="remarks">
      ${remarks(turn).map((words) => html`<span>${words}</span>`)}${paid.cost(turn)}${other}
      ${turn === state.shown || turn.work.expertsUsed === 0
        ? nothing
        : html`<button type="button" class="link" data-testid="show-experts" @click=${showExperts}>${t("turn.show")}</button>`}
    </p>`;
}

/** Open while the model still thinks; after that it is there for who wants it. @param {Turn} turn */
function thoughtView(turn) {
  if (turn.thought === "") return nothing;
  return html`<details class="thought" data-testid="thought" ?open=${turn.isOpen && turn.text === ""}>
    <summary>${t("turn.thought")}</summary>
    <p dir="auto">${turn.thought}</p>
  </details>`;
}

/** @param {Turn} turn @param {boolean} isLast */
export function answerView(turn, isLast) {
  turn.markdown.update(turn.text, !turn.isOpen);
  const waiting = html`<p class="waiting"><span class="sr-only">${t("turn.waiting")}</span><i></i><i></i><i></i></p>`;
  return html`<article class="message assistant" data-testid="message-assistant" data-state=${turn.state} data-id=${turn.id}>
    <h2 class="sr-only">${t("turn.answer")}</h2>
    ${thoughtView(turn)}
    <div class="md" data-testid="answer-text">${markdownView(turn.markdown)}</div>
    ${turn.state === "waiting" ? waiting : nothing} ${turn.isOpen ? html`<p class="remarks">${paid.cost(turn)}</p>` : footer(turn, isLast)}
  </article>`;
}
