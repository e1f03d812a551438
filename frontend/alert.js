/* What went wrong, what it names, and what to do next. At most one alert is shown at a time. */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { t } from "/i18n.js";

/** @type {Record<string, import("/i18n.js").WordKey>} */
const TITLES = {
  unreachable: "error.unreachable",
  stream_broken: "error.broken",
  block_corrupt: "error.block_corrupt",
  no_model: "error.none",
  context_length_exceeded: "error.context",
};

/** @type {Record<string, import("/i18n.js").WordKey>} */
const OWN_MESSAGES = {
  unreachable: "error.unreachable.message",
  stream_broken: "error.broken.message",
  no_model: "error.none.message",
  context_length_exceeded: "error.context.message",
};

/** What to do next, where the node could not say it. @type {Record<string, import("/i18n.js").WordKey>} */
const OWN_HINTS = {
  unreachable: "error.next",
  context_length_exceeded: "error.context.next",
};

/** @param {Alert} alert */
function titleOf({ error, refused }) {
  if (Object.hasOwn(TITLES, error.code)) return t(TITLES[error.code]);
  if (refused) return t("error.refused");
  return t(error.retryAfterSeconds === null ? "error.title" : "error.busy");
}

/** @param {DamageDetail} detail */
function damagedBlock(detail) {
  const subtiles = (detail.bad_subtiles ?? []).join(", ");
  const row = (
    /** @type {"part" | "payload" | "file" | "subtiles"} */ key,
    /** @type {string} */ name,
    /** @type {string | undefined} */ value,
  ) =>
    value ? html`<dt>${t(`block.${key}`)}</dt><dd data-testid=${`error-${name}`}>${value}</dd>` : nothing;
  return html`<dl class="facts-list">
    ${row("part", "part", detail.part)} ${row("payload", "payload", detail.payload)} ${row("file", "file", detail.file)}
    ${row("subtiles", "subtiles", subtiles)}
  </dl>`;
}

/** @param {Alert | null} alert @param {{onDismiss: () => void}} deeds */
export function alertView(alert, { onDismiss }) {
  if (alert === null) return nothing;
  const { error, retry } = alert;
  const message = Object.hasOwn(OWN_MESSAGES, error.code) ? t(OWN_MESSAGES[error.code]) : error.message;
  const hint = Object.hasOwn(OWN_HINTS, error.code) ? t(OWN_HINTS[error.code]) : error.hint;
  return html`<section class="alert" role="alert" data-testid="error" data-code=${error.code}>
    <h2>${titleOf(alert)}</h2>
    <p class="alert-message" dir="auto">${message}</p>
    ${error.detail.payload ? damagedBlock(error.detail) : nothing}
    ${error.retryAfterSeconds === null ? nothing : html`<p>${t("error.retryAfter", { seconds: error.retryAfterSeconds })}</p>`}
    ${hint ? html`<p class="alert-hint" data-testid="error-hint">${hint}</p>` : nothing}
    <p class="alert-actions">
      ${retry ? html`<button type="button" class="button" data-testid="retry" @click=${retry}>${t("retry")}</button>` : nothing}
      <button type="button" class="button quiet" data-testid="dismiss" @click=${onDismiss}>${t("dismiss")}</button>
    </p>
  </section>`;
}
