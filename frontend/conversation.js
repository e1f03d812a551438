/* The conversation, and the place to ask. */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { repeat } from "/vendor/lit-html/directives/repeat.js";
import { sendingKeys } from "/composition.js";
import { t } from "/i18n.js";
import { icon } from "/icons.js";
import { excessOf } from "/lengths.js";
import { answerView, beginEdit, questionView } from "/message.js";
import { paid } from "/places.js";
import { jumpToEnd } from "/scroll.js";
import { isBusy, isElsewhere, lastQuestion, state } from "/state.js";
import { ask, editDraft, stopAnswer, submit } from "/talk.js";

const EXAMPLES = /** @type {const} */ (["example.1", "example.2", "example.3"]);
const BUILT_IN_MODEL = "blyan-genesis";

/** @param {ModelCard | null} model */
function emptyView(model) {
  if (model === null) return nothing;
  const [before, after] = t("empty.other", { model: "\u0000" }).split("\u0000");
  const line = model.id === BUILT_IN_MODEL ? t("empty.genesis") : html`${before}<bdi>${model.id}</bdi>${after}`;
  return html`<section class="empty" data-testid="empty">
    <h2>${t("empty.title")}</h2>
    <p>${line}${state.isFree ? html` <span data-testid="free">${t("free")}</span>` : nothing}</p>
    <ul class="examples">
      ${EXAMPLES.map(
        (key) =>
          html`<li><button type="button" class="button example" data-testid="example" @click=${() => ask(t(key))}>${t(key)}</button></li>`,
      )}
    </ul>
  </section>`;
}

/** The list of messages. It is a live region that speaks when an answer is whole, not at every token: hence aria-busy. */
export function conversationView() {
  const path = state.thread.path();
  const last = path.at(-1);
  return html`<div class="log" role="log" aria-live="polite" aria-label=${t("chat.log")} aria-busy=${isBusy() ? "true" : "false"}>
    ${path.length === 0 ? emptyView(state.model) : nothing}
    ${repeat(
      path,
      ({ id }) => id,
      (message) => (message.role === "user" ? questionView(message) : answerView(message, message === last)),
    )}
    ${isElsewhere() ? html`<p class="quiet-text" data-testid="elsewhere">${t("turn.elsewhere")}</p>` : nothing}
  </div>`;
}

const promptKeys = sendingKeys(submit);

/** @param {KeyboardEvent} event */
function onPromptKey(event) {
  if (event.key === "Escape" && isBusy()) stopAnswer();
  if (event.key === "ArrowUp" && state.draft === "" && !isBusy()) {
    const asked = lastQuestion();
    if (asked) {
      event.preventDefault();
      beginEdit(asked);
    }
  }
  promptKeys.onKeydown(event);
}

/** The form. The text area keeps its own text, so that rendering never disturbs an input method. */
export function composerView() {
  const excess = excessOf(state.draft);
  const canSend = excess === "" && state.model !== null && state.draft.trim() !== "" && !isBusy();
  /** @param {Event} event */
  const onSubmit = (event) => {
    event.preventDefault();
    submit();
  };
  return html`<form class="composer" @submit=${onSubmit}>
    ${state.isAtEnd
      ? nothing
      : html`<button type="button" class="jump" data-testid="jump" aria-label=${t("jump")} title=${t("jump")} @click=${jumpToEnd}>
          ${icon("down")}
        </button>`}
    <div class="composer-box">
      <textarea
        id="prompt"
        data-testid="prompt"
        rows="1"
        dir="auto"
        aria-label=${t("prompt.label")}
        aria-describedby="prompt-keys"
        placeholder=${t("prompt.placeholder")}
        @input=${editDraft}
        @keydown=${onPromptKey}
        @compositionend=${promptKeys.onCompositionEnd}
      ></textarea>
      ${isBusy() && !isElsewhere()
        ? html`<button type="button" class="button stop" data-testid="stop" @click=${stopAnswer}>${t("stop")}</button>`
        : html`<button type="submit" class="button send" data-testid="send" ?disabled=${!canSend}>${t("send")}</button>`}
    </div>
    ${excess === "" ? nothing : html`<p class="excess" role="alert" data-testid="excess">${excess}</p>`}
    ${paid.note()}
    <p class="keys" id="prompt-keys">${t("prompt.keys")}</p>
  </form>`;
}
