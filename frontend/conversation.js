/* Questions and answers, and the place to ask. Answers are text nodes: nothing that a model says becomes markup. */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { t } from "/i18n.js";

const EXAMPLES = ["example.1", "example.2", "example.3"];
const BUILT_IN_MODEL = "blyan-genesis";

function emptyView(model, onAsk) {
  if (model === null) return nothing;
  const line = model.id === BUILT_IN_MODEL ? t("empty.genesis") : t("empty.other", { model: model.id });
  return html`<section class="empty" data-testid="empty">
    <h2>${t("empty.title")}</h2>
    <p>${line}</p>
    <ul class="examples">
      ${EXAMPLES.map(
        (key) =>
          html`<li><button type="button" class="button example" data-testid="example" @click=${() => onAsk(t(key))}>${t(key)}</button></li>`,
      )}
    </ul>
  </section>`;
}

function remarks(turn) {
  const { state, completionTokens, rate, work } = turn;
  const words = [];
  if (state === "stopped" || state === "length" || state === "failed") words.push(t(`turn.${state}`));
  if (completionTokens !== null) words.push(t("turn.tokens", { count: completionTokens }));
  if (rate !== null) words.push(t("turn.rate", { rate: rate.toFixed(rate < 10 ? 1 : 0) }));
  if (work.expertsUsed > 0) words.push(t("turn.experts", { count: work.expertsUsed }));
  return words;
}

function turnView(turn, { isShown, onShow, onExperts }) {
  const waiting = turn.state === "waiting";
  // No white space inside `.text`: it is pre-wrap, so the template's own would be shown.
  return html`<article class="message user" data-testid="message-user">
      <h3 class="sr-only">${t("turn.you")}</h3>
      <div class="text">${turn.prompt}</div>
    </article>
    <article class="message assistant" data-testid="message-assistant" data-state=${turn.state}>
      <h3 class="sr-only">Blyan</h3>
      <div class="text" data-testid="answer-text">${turn.text}</div>
      ${waiting ? html`<p class="waiting"><span class="sr-only">${t("turn.waiting")}</span><i></i><i></i><i></i></p>` : nothing}
      ${turn.isOpen
        ? nothing
        : html`<p class="remarks" data-testid="remarks">
            ${remarks(turn).map((words) => html`<span>${words}</span>`)}
            ${isShown || turn.work.expertsUsed === 0
              ? nothing
              : html`<button type="button" class="link" data-testid="show-experts" @click=${() => onShow(turn)}>${t("turn.show")}</button>`}
            ${turn.work.expertsUsed === 0
              ? nothing
              : html`<button type="button" class="link" data-testid="expert-map" @click=${() => onExperts(turn)}>${t("experts.open")}</button>`}
          </p>`}
    </article>`;
}

/** The list of turns. It is a live region that speaks when an answer is whole, not at every token: hence aria-busy. */
export function conversationView({ turns, shown, model, isBusy }, { onAsk, onShow, onExperts }) {
  return html`<div class="log" role="log" aria-live="polite" aria-label=${t("chat.log")} aria-busy=${isBusy ? "true" : "false"}>
    ${turns.length === 0 ? emptyView(model, onAsk) : turns.map((turn) => turnView(turn, { isShown: turn === shown, onShow, onExperts }))}
  </div>`;
}

function onPromptKey(event, { isBusy, onSubmit, onStop }) {
  if (event.key === "Escape" && isBusy) onStop();
  // While an input method composes a syllable (Korean, Japanese), Enter accepts it; 229 is how Safari says so.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  if (!isBusy) onSubmit();
}

/** The form. The text area keeps its own text, so that rendering never disturbs an input method. */
export function composerView({ isBusy, canSend }, { onSubmit, onStop, onInput }) {
  const submit = (event) => {
    event.preventDefault();
    if (!isBusy) onSubmit();
  };
  return html`<form class="composer" @submit=${submit}>
    <div class="composer-box">
      <textarea
        id="prompt"
        data-testid="prompt"
        rows="1"
        maxlength="32000"
        aria-label=${t("prompt.label")}
        aria-describedby="prompt-keys"
        placeholder=${t("prompt.placeholder")}
        @input=${onInput}
        @keydown=${(event) => onPromptKey(event, { isBusy, onSubmit, onStop })}
      ></textarea>
      ${isBusy
        ? html`<button type="button" class="button stop" data-testid="stop" @click=${onStop}>${t("stop")}</button>`
        : html`<button type="submit" class="button send" data-testid="send" ?disabled=${!canSend}>${t("send")}</button>`}
    </div>
    <p class="keys" id="prompt-keys">${t("prompt.keys")}</p>
  </form>`;
}
